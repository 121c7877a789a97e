"""Half precision, and whether compiling the blocks helps here: measured, not assumed."""

import logging
import time
from collections.abc import Callable

import torch
from torch import Tensor

from scal3r_ros.network.dense_head import store_head
from scal3r_ros.network.scal3r import Scal3R

logger = logging.getLogger(__name__)

WARM_UP, REPEATS = 3, 3
GAIN = 0.97  # of the time without it, below which compilation is worth having
TOLERANCE = 0.02  # relative, at half precision: fused kernels round elsewhere


def store(model: Scal3R, precision: torch.dtype, device: torch.device) -> None:
    """Weights as passes need them: a GPU takes TF32 in the dense heads, a processor bfloat16."""
    if precision == torch.float32:
        return
    model.store_blocks(precision)
    if device.type == "cpu" and precision == torch.bfloat16:
        for head in (model.depth_head, model.point_head):
            if head is not None:
                store_head(head, precision)


def choose_compile(model: Scal3R, run: Callable[[], Tensor]) -> str:
    """Leaves the blocks compiled where that is faster, or not at all; returns on or off.

    `run` passes a chunk and returns its depth, which has to stay the same. Where compiling fails
    (no compiler, no Triton for this device) the log names the cause.
    """
    model.compile_blocks("off")
    before, expected = _timed(run)
    model.compile_blocks("on")
    chosen = "on" if _helps(run, before, expected) else "off"
    model.compile_blocks(chosen)
    return chosen


def _helps(run: Callable[[], Tensor], before: float, expected: Tensor) -> bool:
    """Against the seconds and the depth without it."""
    try:
        seconds, depth = _timed(run)
    except Exception as error:  # torch's compilers raise what their compilers raise
        logger.warning("compile=on does not work here: %s", _first_line(error))
        return False
    logger.info("compile=on: %.0f instead of %.0f ms a chunk", 1e3 * seconds, 1e3 * before)
    difference = float(((depth - expected).abs().median() / expected.abs().median()).cpu())
    if not difference < TOLERANCE:
        logger.warning("compile=on changes depth by %.1f %%", 100 * difference)
        return False
    return seconds < GAIN * before


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
