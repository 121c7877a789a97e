"""The map as a surface: truncated signed distances (Curless and Levoy 1996), by Open3D."""

import importlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scal3r_ros.geometry.sim3 import invert_pose
from scal3r_ros.mapping.config import PointMapConfig
from scal3r_ros.mapping.point_filters import frame_filter
from scal3r_ros.mapping.types import Submap

VOXELS = 2.0  # of the cloud's voxel: the side of the mesh's
TRUNCATION = 4.0  # voxels on either side of a surface
SEEN = 2  # images in which a part of the surface must be
BLOCK, BLOCKS = 16, 4096  # voxels a side of what is allocated together, and how many to begin with
HALF_PIXEL = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])  # Open3D's pixel centres are integers


class MeshError(ValueError):
    """No surface, and why."""


def write_mesh(path: Path, submaps: Sequence[Submap], config: PointMapConfig) -> int:
    """Triangles with colours as binary PLY, in map units; returns their number. Every keyframe's
    depth takes part where it passes the filters of the cloud. Raises MeshError or OSError."""
    open3d = load_open3d()
    mesh = _surface(open3d, submaps, config)
    count = 0 if mesh is None else len(mesh.triangles)
    if count == 0:
        raise MeshError("the map has no surface: too little depth passes the filters")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        draft = Path(folder) / "mesh.ply"
        if not open3d.io.write_triangle_mesh(str(draft), mesh):
            raise OSError(f"{path} cannot be written")
        draft.replace(path)
    return count


def load_open3d() -> Any:
    """Raises MeshError where it cannot be had."""
    try:
        return importlib.import_module("open3d")
    except (ImportError, OSError) as error:
        hint = "pip install open3d; Debian: apt install libusb-1.0-0 libgl1"
        raise MeshError(f"a mesh needs Open3D, which cannot be loaded ({error}): {hint}") from error


def _surface(open3d: Any, submaps: Sequence[Submap], config: PointMapConfig) -> Any:
    submaps = [s for s in submaps if (s.depth > 0).any()]
    if not submaps:
        return None
    medians = {s.index: s.median_depth for s in submaps}
    depths = [medians[s.index] * s.T_map_submap.s for s in submaps]  # of the scene, map units
    single, tensor = open3d.core.float32, open3d.core.Tensor
    grid = open3d.t.geometry.VoxelBlockGrid(
        attr_names=("tsdf", "weight", "color"),
        attr_dtypes=(single, single, single),
        attr_channels=(1, 1, 3),
        voxel_size=VOXELS * config.voxel * float(np.median(depths)),
        block_resolution=BLOCK,
        block_count=BLOCKS,
    )
    images_used = 0
    for submap in submaps:
        for slot in range(submap.first_new, len(submap.depth)):
            keep = frame_filter(submap, slot, medians[submap.index], config)
            if not keep.any():
                continue
            depth = np.where(keep, submap.depth[slot], 0).astype(np.float32)
            depth *= np.float32(submap.T_map_submap.s)
            K = submap.K[slot] - HALF_PIXEL
            T_cam_map = invert_pose(submap.T_map_submap.apply_pose(submap.T_submap_cam[slot]))
            images = [
                open3d.t.geometry.Image(np.ascontiguousarray(image))
                for image in (depth, submap.thumbnails[slot].astype(np.float32) / 255)
            ]
            camera, far = (tensor(K), tensor(T_cam_map)), float(depth.max()) + 1.0
            blocks = grid.compute_unique_block_coordinates(images[0], *camera, 1.0, far, TRUNCATION)
            images_used += 1
            grid.integrate(blocks, *images, *camera, 1.0, far, TRUNCATION)
    if images_used < SEEN:
        return None
    return grid.extract_triangle_mesh(weight_threshold=float(SEEN)).to_legacy()
