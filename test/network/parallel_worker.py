"""One process of test_parallel: run by torchrun, writes what it computed."""

import sys
from pathlib import Path

import torch
import torch.distributed as distributed

from scal3r_ros.network.parallel import forward_parallel, join_processes
from test.network.test_parallel import chunks, network


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    process = join_processes(torch.device("cpu"))
    everything = chunks()
    own = [i for i in range(len(everything)) if process.owns(i)]
    with torch.inference_mode():
        outputs, context = forward_parallel(network(), [everything[i] for i in own])
    for i, output in zip(own, outputs, strict=True):
        values = {"depth": output.depth, "camera": output.encodings[-1]}
        torch.save(values | {"chunks": context.chunks}, folder / f"{i}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
