"""`scal3r bench network`: what a chunk costs on this machine, stage by stage, with random weights.

The causal path as the mapper drives it: the memory is carried on, overlap frames keep their patch
tokens. Runs as `python -m scal3r_ros.network.bench` too, wherever torch, einops, numpy and
safetensors are installed.
"""

import argparse
import json
import platform
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from scal3r_ros.network.acceleration import store
from scal3r_ros.network.aggregator import MemoryPolicy
from scal3r_ros.network.cost import operations
from scal3r_ros.network.devices import PRECISIONS, choose_device, inference
from scal3r_ros.network.memory import GlobalContext
from scal3r_ros.network.scal3r import COMPILE, ChunkImages, Scal3R, Scal3RConfig

SIZES = ((518, 154), (518, 294), (518, 392))  # width, height
WINDOWS = ((60, 30), (48, 32), (16, 8))  # frames, of which overlap
PEAK_SIZES = {"cuda": 8192, "cpu": 1536}  # of the square matrices that measure the peak


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
    """Adds up the time of methods, by name; the device is waited for at every mark."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self._watched: list[tuple[object, str]] = []

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def watch(self, name: str, owner: object, method: str) -> None:
        run = getattr(owner, method)

        def timed(*args: object, **options: object) -> object:
            began = self.now()
            result = run(*args, **options)
            self.seconds[name] += self.now() - began
            return result

        setattr(owner, method, timed)
        self._watched.append((owner, method))

    def release(self) -> None:
        for owner, method in self._watched:
            delattr(owner, method)  # the class's own is found again


def bench(
    config: Scal3RConfig,
    sizes: tuple[tuple[int, int], ...] = SIZES,
    windows: tuple[tuple[int, int], ...] = WINDOWS,
    *,
    device: torch.device,
    precisions: tuple[str, ...] = (),
    compile_blocks: str = "off",
    repeats: int = 5,
    on_row: Callable[[BenchRow], None] | None = None,
) -> list[BenchRow]:
    """A row for every size, window and precision: fp32, and bf16 on a GPU, unless told. Weights
    are random: times do not depend on them. `compile_blocks` as in `Scal3R.compile_blocks`.

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
    model.compile_blocks(compile_blocks)
    rows = []
    for precision in precisions:
        dtype = PRECISIONS[precision]
        store(model, dtype, device)
        peak = 0.0
        for size in sizes:
            for window in windows:
                now = (matrix_peak(device, d) for d in {dtype, torch.float32})
                peak = max(peak, *now)  # others may have used the machine before
                with inference(device, dtype):
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
    """One setting, after a chunk that fills the memory and one that warms up."""
    (width, height), (frames, overlap) = size, window
    images = torch.rand(1, frames, 3, height, width, device=device)
    stopwatch = Stopwatch(device)
    reset_peak(device)
    patches = model.encode(images)
    kept = patches[:, frames - overlap :]
    context = _step(model, images, patches[:, :0], 0, GlobalContext())
    context = _step(model, images, kept, overlap, context)
    times = []
    for _ in range(repeats):
        began = stopwatch.now()
        _step(model, images, kept, overlap, context)
        times.append(stopwatch.now() - began)
    peak_memory = peak_memory_mb(device)
    stages = _stages(model, stopwatch, lambda: _step(model, images, kept, overlap, context))
    seconds = sorted(times)[len(times) // 2]
    count = operations(model.config, frames, height, width, kept=overlap)["total"]
    tflops = count / seconds / 1e12
    return BenchRow(
        width=width,
        height=height,
        window=frames,
        overlap=overlap,
        precision=precision,
        ms_per_chunk=round(1e3 * seconds, 2),
        keyframes_per_s=round((frames - overlap) / seconds, 2),
        gflop=round(count / 1e9, 3),
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
    stopwatch.watch("encoder", aggregator.encoder, "forward")
    stopwatch.watch("frame attention", aggregator, "_frame_attention")
    stopwatch.watch("global attention", aggregator, "_global_attention")
    stopwatch.watch("aggregator", aggregator, "forward")
    stopwatch.watch("camera head", model.camera_head, "forward")
    stopwatch.watch("depth head", model.depth_head, "forward")
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


def main(arguments: list[str] | None = None) -> None:
    """The command line. Raises ValueError where a setting is wrong."""
    parser = argparse.ArgumentParser(prog="scal3r bench network", description=main.__doc__)
    parser.description = "Milliseconds per chunk by stage, new keyframes a second, share of peak."
    add = parser.add_argument
    add("--model", default="scal3r", choices=("scal3r", "nano"))
    add("--size", action="append", metavar="WIDTHxHEIGHT", help="may be repeated")
    add("--window", action="append", metavar="FRAMES/OVERLAP", help="may be repeated")
    add("--precision", action="append", choices=sorted(PRECISIONS), help="may be repeated")
    add("--depth-head", default="dpt", choices=("dpt", "moe"))
    add("--squares", type=int, default=1, help="patches a side that global attention looks at")
    add("--device", default="auto", help="auto, cpu or cuda:N")
    add("--compile", default="off", choices=COMPILE, help="torch.compile of the blocks")
    add("--repeats", type=int, default=5)
    add("--json", type=Path, metavar="FILE", help="write it here too")
    given = parser.parse_args(arguments)
    size = Scal3RConfig.nano() if given.model == "nano" else Scal3RConfig.scal3r()
    device = choose_device(given.device)
    sizes = tuple(_pair(s, "x") for s in given.size) if given.size else SIZES
    windows = tuple(_pair(w, "/") for w in given.window) if given.window else WINDOWS
    print(table_line(None), flush=True)
    rows = bench(
        replace(size.with_head(given.depth_head), point_head=False, global_side=given.squares),
        sizes,
        windows,
        device=device,
        precisions=tuple(given.precision or ()),
        compile_blocks=given.compile,
        repeats=max(1, given.repeats),
        on_row=lambda row: print(table_line(row), flush=True),
    )
    if given.json is not None:
        given.json.write_text(json.dumps(report(rows, device), indent=1) + "\n")


def _pair(text: str, between: str) -> tuple[int, int]:
    parts = text.split(between)
    if len(parts) != 2 or not all(p.isdigit() for p in parts):
        raise ValueError(f"expected two numbers with {between} between them, got {text}")
    return int(parts[0]), int(parts[1])


if __name__ == "__main__":
    main()
