"""What a mapping run leaves on disk: cloud, trajectories, depth, pictures, report."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from scal3r_ros.data.tum import write_trajectory
from scal3r_ros.evaluation.render import render_depth, render_map
from scal3r_ros.evaluation.report import build_report, write_report
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
    """map.ply, trajectory.txt, keyframes.txt, odometry.txt, map.png, depth.png, report.json; on
    request every keyframe's depth and mesh.ply."""
    cloud = mapper.point_map.cloud()
    write_ply(out / "map.ply", cloud)
    trajectory = run.trajectory(mapper)
    write_trajectory(out / "trajectory.txt", trajectory)
    keyframes = dict(mapper.keyframe_stamped_poses())
    write_trajectory(out / "keyframes.txt", keyframes)
    if run.tracked:
        write_trajectory(out / "odometry.txt", run.odometry())
    if len(cloud):
        render_map(out / "map.png", cloud, np.stack([keyframes[s] for s in sorted(keyframes)]))
        draw_depth(out / "depth.png", mapper.submaps)
    if mesh:
        write_mesh(out / "mesh.ply", mapper.submaps, mapper.config.points)
    if save_depth:
        write_depth(out / "depth", mapper)
    report = build_report(mapper, run.seconds, **more)
    write_report(out / "report.json", report)
    return report


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
            cv2.imwrite(str(folder / f"{submap.frame_indices[slot]:06d}.png"), pixels)
