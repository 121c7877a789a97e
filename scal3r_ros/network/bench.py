"""`scal3r bench network`: what a chunk costs on this machine, stage by stage, with random weights.

The causal path as the mapper drives it: the memory is carried on, overlap frames keep their patch
tokens. Needs nothing but this room.
"""

import platform
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from scal3r_ros.network.aggregator import MemoryPolicy
from scal3r_ros.network.memory import GlobalContext
from scal3r_ros.network.scal3r import ChunkImages, Scal3R, Scal3RConfig

SIZES = ((518, 154), (518, 294), (518, 392))  # width, height
WINDOWS = ((60, 30), (48, 32), (16, 8))  # frames, of which overlap
PEAK_SIZES = {"cuda": 8192, "cpu": 1536}  # of the square matrices that measure the peak
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class BenchRow:
    """One setting; times are medians of milliseconds."""

    width: int
    height: int
    window: int
    overlap: int
    precision: str
    ms_per_chunk: float
    keyframes_per_s: float  # new ones
    gflop: float  # operations of one chunk
    tflops: float  # per second
    peak_share: float  # of the device's measured matrix peak, the better of this precision and fp32
    peak_memory_mb: float  # of the device; of the process on a CPU
    stages_ms: dict[str, float] = field(default_factory=dict)


class Stopwatch:
    """Adds up the time of modules, by name; the device is waited for at every mark."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self._hooks: list = []

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def watch(self, name: str, module: nn.Module) -> None:
        started: list[float] = []
        self._hooks += [
            module.register_forward_pre_hook(lambda *_: started.append(self.now())),
            module.register_forward_hook(
                lambda *_: self.seconds.__setitem__(
                    name, self.seconds[name] + self.now() - started.pop()
                )
            ),
        ]

    def release(self) -> None:
        for hook in self._hooks:
            hook.remove()


def bench(
    config: Scal3RConfig,
    sizes: tuple[tuple[int, int], ...] = SIZES,
    windows: tuple[tuple[int, int], ...] = WINDOWS,
    *,
    device: torch.device,
    precisions: tuple[str, ...] = (),
    repeats: int = 5,
    on_row: Callable[[BenchRow], None] | None = None,
) -> list[BenchRow]:
    """A row for every size, window and precision: fp32, and bf16 on a GPU, unless told. Weights
    are random: times do not depend on them.

    Raises ValueError where a size is not a multiple of the patch or a precision is unknown.
    """
    for width, height in sizes:
        if width % config.patch or height % config.patch:
            raise ValueError(f"sizes must be multiples of {config.patch}, got {width}x{height}")
    precisions = precisions or (("fp32", "bf16") if device.type == "cuda" else ("fp32",))
    unknown = set(precisions) - set(PRECISIONS)
    if unknown:
        raise ValueError(f"precisions must be of {list(PRECISIONS)}, got {sorted(unknown)}")
    torch.manual_seed(0)
    model = Scal3R(config).to(device).eval().requires_grad_(False)
    rows = []
    for precision in precisions:
        peak = max(matrix_peak(device, d) for d in {PRECISIONS[precision], torch.float32})
        for size in sizes:
            for window in windows:
                rows.append(measure(model, size, window, precision, peak, device, repeats))
                if on_row is not None:
                    on_row(rows[-1])
    return rows


def measure(
    model: Scal3R,
    size: tuple[int, int],
    window: tuple[int, int],
    precision: str,
    peak: float,
    device: torch.device,
    repeats: int,
) -> BenchRow:
    """One setting, after a chunk that fills the memory and one whose operations are counted."""
    (width, height), (frames, overlap) = size, window
    dtype = PRECISIONS[precision]
    images = torch.rand(1, frames, 3, height, width, device=device)
    stopwatch = Stopwatch(device)
    reset_peak(device)
    autocast = torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)
    with torch.inference_mode(), autocast:
        patches = model.encode(images)
        context = _step(model, images, patches[:, :0], 0, GlobalContext())
        kept = patches[:, -overlap:] if overlap else patches[:, :0]
        with FlopCounterMode(display=False) as counter:
            context = _step(model, images, kept, overlap, context)
        times = []
        for _ in range(repeats):
            began = stopwatch.now()
            _step(model, images, kept, overlap, context)
            times.append(stopwatch.now() - began)
        peak_memory = peak_memory_mb(device)
        stages = _stages(model, stopwatch, lambda: _step(model, images, kept, overlap, context))
    seconds = sorted(times)[len(times) // 2]
    operations = counter.get_total_flops()
    tflops = operations / seconds / 1e12
    return BenchRow(
        width=width,
        height=height,
        window=frames,
        overlap=overlap,
        precision=precision,
        ms_per_chunk=round(1e3 * seconds, 2),
        keyframes_per_s=round((frames - overlap) / seconds, 2),
        gflop=round(operations / 1e9, 3),
        tflops=round(tflops, 3),
        peak_share=round(tflops / peak, 3),
        peak_memory_mb=peak_memory,
        stages_ms=stages,
    )


def _step(
    model: Scal3R,
    images: torch.Tensor,
    kept: torch.Tensor,
    overlap: int,
    context: GlobalContext,
) -> GlobalContext:
    """One chunk as the mapper runs it: only new frames are encoded."""
    fresh = model.encode(images[:, overlap:])
    patches = torch.cat([kept, fresh], dim=1)
    chunk = ChunkImages(images, images.shape[1] // 2, overlap if context else 0, patches)
    _, updated = model([chunk], context or None, MemoryPolicy())
    return updated


def _stages(model: Scal3R, stopwatch: Stopwatch, run: Callable[[], object]) -> dict[str, float]:
    """Milliseconds by stage, of one more chunk; waiting at every mark makes it a little slower."""
    aggregator = model.aggregator
    stopwatch.watch("encoder", aggregator.encoder)
    for block in aggregator.frame_blocks:
        stopwatch.watch("frame attention", block)
    for block in aggregator.global_blocks:
        stopwatch.watch("global attention", block)
    stopwatch.watch("aggregator", aggregator)
    stopwatch.watch("camera head", model.camera_head)
    stopwatch.watch("depth head", model.depth_head)
    run()
    stopwatch.release()
    ms = {name: 1e3 * seconds for name, seconds in stopwatch.seconds.items()}
    ms["memory"] = ms.pop("aggregator") - ms["frame attention"] - ms["global attention"]
    return {name: round(value, 2) for name, value in ms.items()}


def matrix_peak(device: torch.device, dtype: torch.dtype) -> float:
    """TFLOP/s of a large matrix product, the best of some."""
    n = PEAK_SIZES.get(device.type, PEAK_SIZES["cpu"])
    a, b = (torch.rand(n, n, device=device, dtype=dtype) for _ in range(2))
    watch, best = Stopwatch(device), float("inf")
    for _ in range(6):
        began = watch.now()
        torch.mm(a, b)
        best = min(best, watch.now() - began)
    return 2 * n**3 / best / 1e12


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_mb(device: torch.device) -> float:
    """Of the GPU since `reset_peak`; on a CPU of the process since it began."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)


def machine(device: torch.device) -> dict[str, object]:
    """What the numbers were measured on."""
    cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else platform.processor()
    return {
        "device": name or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def report(rows: list[BenchRow], device: torch.device) -> dict[str, object]:
    return {"machine": machine(device), "rows": [asdict(row) for row in rows]}


def table_line(row: BenchRow | None) -> str:
    """One line of the table; its head for None."""
    if row is None:
        head = "      size  window  precision  ms/chunk  new/s  TFLOP/s  of peak  memory MB"
        return head + "  stages (ms)"
    stages = ", ".join(f"{name} {value:g}" for name, value in row.stages_ms.items())
    return (
        f"{row.width:>5d}x{row.height:<4d} {row.window:>3d}/{row.overlap:<3d} {row.precision:>9s} "
        f"{row.ms_per_chunk:9.1f} {row.keyframes_per_s:6.1f} {row.tflops:8.2f} "
        f"{row.peak_share:8.1%} {row.peak_memory_mb:10.0f}  {stages}"
    )
