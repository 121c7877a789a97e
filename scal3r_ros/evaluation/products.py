"""What a mapping run leaves on disk: cloud, trajectories, depth, pictures, report."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from scal3r_ros.data.tum import write_trajectory
from scal3r_ros.evaluation.render import render_depth, render_map
from scal3r_ros.evaluation.report import build_report, write_report
from scal3r_ros.evaluation.results_folder import clear_results
from scal3r_ros.mapping.map_file import write_ply
from scal3r_ros.mapping.mapper import Mapper
from scal3r_ros.mapping.mesh import write_mesh
from scal3r_ros.mapping.pipeline import MappedSequence
from scal3r_ros.mapping.types import Submap

DEPTH_ROWS = 5  # of depth.png


def write_products(
    out: Path,
    mapper: Mapper,
    run: MappedSequence,
    *,
    save_depth: bool = False,
    mesh: bool = False,
    **more: Any,
) -> dict[str, Any]:
    """trajectory.txt, keyframes.txt, odometry.txt, map.ply, report.json, map.png, depth.png; on
    request every keyframe's depth and mesh.ply. What cost the run is written first, in place of
    what an earlier run left; an OSError names the file that could not be written."""
    cloud, trajectory = mapper.point_map.cloud(), run.trajectory(mapper)
    keyframes = dict(mapper.keyframe_stamped_poses())
    report = build_report(mapper, run.seconds, **more)
    path = np.stack([keyframes[s] for s in sorted(keyframes)])
    writers: dict[str, Callable[[Path], object]] = {
        "trajectory.txt": lambda file: write_trajectory(file, trajectory),
        "keyframes.txt": lambda file: write_trajectory(file, keyframes),
    }
    if run.tracked:
        writers["odometry.txt"] = lambda file: write_trajectory(file, run.odometry())
    writers["map.ply"] = lambda file: write_ply(file, cloud)
    writers["report.json"] = lambda file: write_report(file, report)
    if len(cloud):
        writers["map.png"] = lambda file: render_map(file, cloud, path)
        writers["depth.png"] = lambda file: draw_depth(file, mapper.submaps)
    if mesh:
        writers["mesh.ply"] = lambda file: write_mesh(file, mapper.submaps, mapper.config.points)
    if save_depth:
        writers["depth"] = lambda folder: write_depth(folder, mapper)
    clear_results(out)
    for name, write in writers.items():
        _write(out / name, write)
    return report


def _write(path: Path, write: Callable[[Path], object]) -> None:
    try:
        write(path)
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error}") from error
    if not path.exists():  # OpenCV does not say why
        raise OSError(f"{path} cannot be written")


def draw_depth(path: Path, submaps: list[Submap]) -> None:
    """Evenly chosen keyframes."""
    picks = [(s, slot) for s in submaps for slot in range(s.overlap, len(s.depth))]
    chosen = depth_rows(picks)
    render_depth(
        path,
        [s.thumbnails[i] for s, i in chosen],
        [s.depth[i].astype(np.float64) for s, i in chosen],
        [s.edge_certainty[i].astype(np.float64) for s, i in chosen],
    )


def depth_rows(keyframes: list[Any]) -> list[Any]:
    """Those that depth.png shows, evenly chosen."""
    rows = min(DEPTH_ROWS, len(keyframes))
    return [keyframes[i] for i in np.linspace(0, len(keyframes) - 1, rows, dtype=int)]


def write_depth(folder: Path, mapper: Mapper) -> None:
    """Depth of every keyframe in map units: uint16 PNG of 1/1000 unit, named by image index."""
    folder.mkdir(exist_ok=True)
    for submap in mapper.submaps:
        for slot in range(submap.overlap, len(submap.depth)):
            depth = submap.depth[slot].astype(np.float64) * submap.T_map_submap.s * 1000
            pixels = np.clip(np.round(depth), 0, 65535).astype(np.uint16)
            name = f"{submap.frame_indices[slot]:06d}.png"
            if not cv2.imwrite(str(folder / name), pixels):
                raise OSError(f"{name} is refused")
