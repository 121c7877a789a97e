"""report.json: what a run did, with what, at what cost."""

import json
import platform
import resource
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from scal3r_ros.mapping.mapper import Mapper

PACKAGES = ("torch", "numpy", "scipy", "opencv-python-headless", "gtsam", "open3d", "rosbags")


def build_report(
    mapper: Mapper, seconds: float, *, invalid: int = 0, **more: Any
) -> dict[str, Any]:
    """Counts, speed, memory, versions; `more` is added as it is."""
    c = mapper.counters
    return {
        "frames": c.frames,
        "keyframes": c.keyframes,
        "chunks": c.chunks,
        "loops": c.loops,
        "loops_refused": c.loops_refused,
        "components": c.components,
        "points": mapper.point_map.clouds.points,
        "seconds": round(seconds, 3),
        "frames_per_second": round(c.frames / max(seconds, 1e-9), 2),
        "seconds_per_chunk": _mean(c.total_seconds),
        "network_seconds_per_chunk": _mean(c.predict_seconds),
        "peak_host_memory_mb": round(peak_host_memory_mb(), 1),
        "peak_gpu_memory_mb": peak_gpu_memory_mb(),
        "drops": {"overload": 0, "invalid": invalid, "chunks_discarded": c.chunks_discarded},
        "scale": {
            "source": mapper.config.scale.source,
            "metric": mapper.metric.metric,
            "metres_per_unit": mapper.metric.estimator.scale,
        },
        "focal_length": _focal_length(mapper),
        "versions": versions(),
        "commit": commit(),
        **more,
    }


def _focal_length(mapper: Mapper) -> dict[str, float] | str:
    """Of a camera without calibration, as bundle adjustment has measured it."""
    found = mapper.refiner.calibration
    if found.focal is None:
        return "calibrated"
    return {"image_widths": round(found.focal, 4), "deviation": round(found.deviation, 4)}


def _mean(values: list[float]) -> float:
    return round(sum(values) / len(values), 4) if values else 0.0


def peak_host_memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def resident_mb(pid: int | str = "self") -> float:
    """Memory of a process that is in use now, MB; NaN where it has ended. Linux."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return float("nan")


def peak_gpu_memory_mb() -> float:
    """Of this process; 0 without a GPU."""
    import sys

    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return 0.0
    return round(torch.cuda.max_memory_allocated() / 2**20, 1)


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in ("scal3r_ros", *PACKAGES):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def commit() -> str:
    """Of the checkout this code runs from, or "unknown" where it is none."""
    folder = Path(__file__).parent
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def write_report(path: Path, report: dict[str, Any]) -> None:
    path.write_text(json.dumps(report, indent=1) + "\n")


def summary(report: dict[str, Any]) -> str:
    """A table for the terminal."""
    rows = [
        ("images", f"{report['frames']}"),
        ("keyframes", f"{report['keyframes']}"),
        ("chunks", f"{report['chunks']}"),
        ("loops closed / refused", f"{report['loops']} / {report['loops_refused']}"),
        ("points", f"{report['points']}"),
        ("time", f"{report['seconds']:.1f} s ({report['frames_per_second']:.1f} images/s)"),
        ("peak memory", f"{report['peak_host_memory_mb']:.0f} MB host"),
        ("lengths are", "metres" if report["scale"]["metric"] else "not metric"),
    ]
    focal = report.get("focal_length")  # the demo's report is of recordings
    if isinstance(focal, dict):
        found = f"{focal['image_widths']:.3f} image widths +- {100 * focal['deviation']:.0f} %"
        rows.append(("focal length", f"{found}, found on the way: the camera is not calibrated"))
    wide = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{wide}}  {value}" for name, value in rows)
