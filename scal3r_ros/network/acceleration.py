"""Which way of compiling the blocks helps on this machine: measured, not assumed."""

import logging
import time
from collections.abc import Callable

import torch
from torch import Tensor

from scal3r_ros.network.scal3r import Scal3R

logger = logging.getLogger(__name__)

WARM_UP, REPEATS = 3, 3
GAIN = 0.97  # of the time without it, below which compilation is worth having
TOLERANCE = 0.02  # relative, at half precision: fused kernels round elsewhere


def choose_compile(
    model: Scal3R, run: Callable[[], Tensor], modes: tuple[str, ...] = ("on", "graphs")
) -> str:
    """Leaves the model compiled in the mode that is fastest, or not at all, and returns it.

    `run` passes a chunk and returns its depth, which has to stay the same. A mode that fails
    (no compiler, no Triton for this device) is named in the log and not taken.
    """
    model.compile_blocks("off")
    chosen, (best, expected) = "off", _timed(run)
    for mode in modes:
        model.compile_blocks(mode)
        try:
            seconds, depth = _timed(run)
        except Exception as error:  # torch's compilers raise what their compilers raise
            logger.warning("compile=%s does not work here: %s", mode, _first_line(error))
            continue
        difference = float(((depth - expected).abs().median() / expected.abs().median()).cpu())
        if not difference < TOLERANCE:
            logger.warning("compile=%s changes depth by %.1f %%", mode, 100 * difference)
        elif seconds < GAIN * best:
            chosen, best = mode, seconds
    model.compile_blocks(chosen)
    logger.info("compile=%s: %.0f ms a chunk", chosen, 1e3 * best)
    return chosen


def _timed(run: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Seconds of the fastest of some runs, and the last result."""
    result, times = run(), []
    for index in range(WARM_UP - 1 + REPEATS):
        began = time.perf_counter()
        result = run()
        if result.device.type == "cuda":
            torch.cuda.synchronize(result.device)
        if index >= WARM_UP - 1:
            times.append(time.perf_counter() - began)
    return min(times), result.clone()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
