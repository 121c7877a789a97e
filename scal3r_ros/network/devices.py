"""Where the network runs and in which precision."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

logger = logging.getLogger(__name__)

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CPUINFO = Path("/proc/cpuinfo")


def choose_device(name: str) -> torch.device:
    """auto takes the GPU where there is one; a GPU asked for and missing is an error."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device must be auto, cpu or cuda:N, got {name}") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda:N, got {name}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        there = torch.cuda.device_count() or "no"
        raise ValueError(f"device {name} was asked for, but torch finds {there} CUDA GPU")
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """auto: bfloat16 where the device multiplies it itself, else float16 on a GPU and float32 on a
    processor."""
    if name in PRECISIONS:
        return PRECISIONS[name]
    if name != "auto":
        raise ValueError(f"precision must be auto, fp32, fp16 or bf16, got {name}")
    if device.type != "cuda":
        return torch.bfloat16 if multiplies_bfloat16() else torch.float32
    has_bfloat16 = torch.cuda.get_device_capability(device) >= (8, 0)  # before: emulated, slow
    return torch.bfloat16 if has_bfloat16 else torch.float16


def name_of(precision: torch.dtype) -> str:
    return next(name for name, dtype in PRECISIONS.items() if dtype == precision)


def multiplies_bfloat16() -> bool:
    """Whether the processor does (x86; nothing is known of how others fare): what only emulates it
    is slower than in float32."""
    if not CPUINFO.is_file():
        return False
    flags = re.search(r"^flags\s*:(.*)$", CPUINFO.read_text(), re.MULTILINE)
    return flags is not None and not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags[1].split())


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """How float32 matrix products are rounded ("high" lets a GPU take TF32); restored after."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def half_precision(device: torch.device) -> torch.dtype | None:
    """What autocast rounds to now; None where it is off."""
    kind = device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):  # meta knows no autocast
        return None
    return torch.get_autocast_dtype(kind)


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """float32 inside, whatever is around."""
    if half_precision(device) is None:
        yield
        return
    with torch.autocast(device.type, enabled=False):
        yield


@contextmanager
def inference(device: torch.device, precision: torch.dtype) -> Iterator[None]:
    """No gradients; blocks in `precision`. What stays float32 (memory, heads) may take TF32 when
    the blocks are in half precision anyway, but for Newton-Schulz, which asks for all of it."""
    reduced = precision != torch.float32
    with (
        torch.inference_mode(),
        torch.autocast(device.type, dtype=precision, enabled=reduced),
        matmul_precision("high" if reduced else torch.get_float32_matmul_precision()),
    ):
        yield


def gpu_temperature(device: torch.device) -> float | None:
    """Degrees Celsius; None on a CPU, and where nothing tells it."""
    if device.type != "cuda":
        return None
    on_board = board_temperature()
    return on_board if on_board is not None else _driver_temperature(device)


def board_temperature(zones: Path = Path("/sys/class/thermal")) -> float | None:
    """Of the GPU's own sensor on boards without a driver that tells (Jetson), degrees Celsius."""
    for zone in sorted(zones.glob("thermal_zone*")):
        try:
            if "gpu" in (zone / "type").read_text().lower():
                return int((zone / "temp").read_text()) / 1000
        except (OSError, ValueError):  # a GPU that sleeps has no temperature
            continue
    return None


def _driver_temperature(device: torch.device) -> float | None:
    try:
        return float(torch.cuda.temperature(device))
    except Exception as error:  # NVML's errors share no class with torch's
        _say_once(f"the GPU's temperature is not known: {error}")
        return None


@cache
def _say_once(what: str) -> None:
    logger.info(what)


class MemoryBudget:
    """Learns what a frame of a chunk costs on a GPU, from the longest chunk that ran: attention in
    blocks makes it linear, but for a part that any chunk needs (heads, rows of the memory), so a
    short one tells nothing of a long one."""

    def __init__(self, device: torch.device, fraction: float = 0.9) -> None:
        self.device, self.fraction = device, fraction
        self.longest = 0  # frames that have passed together
        self.bytes_per_frame = 0.0  # of that chunk

    def fits(self, frames: int) -> int | None:
        """How many of so many frames should pass together; None where only a try can tell: on a
        CPU, and beyond twice what has passed."""
        if frames > 2 * self.longest:
            return None
        return int(self.available() / self.bytes_per_frame)

    def available(self) -> float:
        """Bytes that this process may still take: the fraction of the GPU that is ours to use,
        less what others and we hold; what torch keeps for reuse counts as free."""
        free, total = torch.cuda.mem_get_info(self.device)
        kept = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return free + kept - (1 - self.fraction) * total

    @contextmanager
    def watch(self, frames: int) -> Iterator[None]:
        """Around the pass of one chunk."""
        if self.device.type != "cuda":
            yield
            return
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        yield
        cost = (torch.cuda.max_memory_allocated(self.device) - before) / frames
        if frames >= self.longest:
            known = self.bytes_per_frame if frames == self.longest else 0.0
            self.longest, self.bytes_per_frame = frames, max(known, cost)
