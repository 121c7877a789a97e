"""What `test_acceleration.py` runs on its own: torch.compile does not go with the type checks that
the other tests switch on. Prints what it found as JSON."""

import json
import logging
import sys

import torch

from scal3r_ros.network.acceleration import choose_compile
from scal3r_ros.network.scal3r import Scal3R
from test.network.test_scal3r import TINY, chunk


def main() -> None:
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    torch.manual_seed(0)
    network = Scal3R(TINY).eval().requires_grad_(False)

    def depth() -> torch.Tensor:
        return network([chunk(3)])[0][0].depth

    with torch.inference_mode():
        plain = depth()
        network.compile_blocks("on")
        compiled = depth()
        chosen = choose_compile(network, depth)
        torch._dynamo.reset()
        torch._inductor.config.cpp.cxx = ("/no/such/compiler",)
        torch._inductor.config.force_disable_caches = True
        without_compiler = choose_compile(network, depth)
        after = depth()
    found = {
        "difference": float((compiled / plain - 1).abs().max()),
        "chosen": chosen,
        "without_compiler": without_compiler,
        "equal_after": bool(torch.equal(after, plain)),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
