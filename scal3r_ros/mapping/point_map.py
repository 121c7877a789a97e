"""The dense map: filtered, voxelised clouds anchored to their submaps."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from numpy import ndarray

from scal3r_ros.geometry.camera import project, transform_points, unproject
from scal3r_ros.geometry.sim3 import invert_pose
from scal3r_ros.geometry.voxels import crowd, strongest_per_voxel
from scal3r_ros.mapping.config import PointMapConfig
from scal3r_ros.mapping.shelf import Shelf, Shelved
from scal3r_ros.mapping.types import MapUpdate, Submap

CROWD_VOXELS = 2.5  # side of the cells in which points are counted
VIEWS = (-5, -3, -2, -1, 1, 2, 3, 5)  # keyframes away, that are asked about a frame's points


@dataclass(frozen=True, eq=False)
class Cloud:
    xyz: Float32[ndarray, "n 3"]
    rgb: UInt8[ndarray, "n 3"]
    confidence: Float32[ndarray, " n"]  # >= 1

    def __len__(self) -> int:
        return len(self.xyz)


def join(clouds: list[Cloud]) -> Cloud:
    if not clouds:
        return Cloud(
            np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8), np.zeros(0, np.float32)
        )
    return Cloud(
        np.concatenate([c.xyz for c in clouds]),
        np.concatenate([c.rgb for c in clouds]),
        np.concatenate([c.confidence for c in clouds]),
    )


class Clouds(Mapping[int, Cloud]):
    """By submap, on disk."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._stored: dict[int, Shelved] = {}
        self._sizes: dict[int, int] = {}

    def __setitem__(self, index: int, cloud: Cloud) -> None:
        self._stored[index] = self._shelf.put(**vars(cloud))
        self._sizes[index] = len(cloud)

    def __getitem__(self, index: int) -> Cloud:
        stored = self._stored[index]
        return Cloud(stored["xyz"], stored["rgb"], stored["confidence"])

    def __iter__(self) -> Iterator[int]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    @property
    def points(self) -> int:
        return sum(self._sizes.values())


class PointMap:
    """Clouds stay in their submap's frame; a submap that moves takes its points along."""

    def __init__(self, config: PointMapConfig, shelf: Shelf) -> None:
        self.config = config
        self.clouds = Clouds(shelf)
        self.submaps: dict[int, Submap] = {}

    def update(self, update: MapUpdate) -> Cloud:
        """Adds the new submap's cloud and returns it, in the submap's frame."""
        submap = update.submap
        self.submaps[submap.index] = submap
        cloud = self.clouds[submap.index] = submap_cloud(submap, self.config)
        return cloud

    def cloud(self) -> Cloud:
        """Everything, in the map frame."""
        return join([self.placed(index) for index in sorted(self.clouds)])

    def placed(self, index: int) -> Cloud:
        cloud = self.clouds[index]
        xyz = self.submaps[index].T_map_submap.apply(cloud.xyz.astype(np.float64))
        return Cloud(xyz.astype(np.float32), cloud.rgb, cloud.confidence)


def submap_cloud(submap: Submap, config: PointMapConfig) -> Cloud:
    """Points of the submap's new frames, in the submap's frame."""
    first = submap.overlap if submap.overlap < len(submap.depth) else 0
    return _filtered_cloud(submap, range(first, len(submap.depth)), config)


def newest_view(submap: Submap, config: PointMapConfig) -> Cloud:
    """What the newest frame alone sees, in the submap's frame: a ray from its camera to every point
    is free, as costmaps take it."""
    alone = replace(config, crowd=0)  # the points of one frame keep little company
    return _filtered_cloud(submap, [len(submap.depth) - 1], alone)


def _filtered_cloud(submap: Submap, slots: Iterable[int], config: PointMapConfig) -> Cloud:
    """Points of some frames that pass every filter, one per voxel, in company."""
    median = float(np.median(submap.depth[submap.depth > 0])) if (submap.depth > 0).any() else 1.0
    parts = [_frame_cloud(submap, slot, median, config) for slot in slots]
    cloud = join(parts)
    if not len(cloud):
        return cloud
    best = strongest_per_voxel(cloud.xyz, config.voxel * median, cloud.confidence)
    best = best[crowd(cloud.xyz[best], CROWD_VOXELS * config.voxel * median) >= config.crowd]
    return Cloud(cloud.xyz[best], cloud.rgb[best], cloud.confidence[best])


def _frame_cloud(submap: Submap, slot: int, median: float, config: PointMapConfig) -> Cloud:
    depth = submap.depth[slot].astype(np.float64)
    keep = frame_filter(submap, slot, median, config)
    xyz = transform_points(submap.T_submap_cam[slot], unproject(depth, submap.K[slot])[keep])
    return Cloud(
        xyz.astype(np.float32),
        submap.thumbnails[slot][keep],
        submap.confidence[slot][keep].astype(np.float32),
    )


def frame_filter(
    submap: Submap, slot: int, median: float, config: PointMapConfig
) -> Bool[ndarray, "h w"]:
    """Confidence, gate certainty, isolation, grazing angle, agreement with other frames."""
    depth = submap.depth[slot].astype(np.float64)
    keep = (depth > 0) & (depth < config.max_depth * median)
    for values, share in (
        (submap.confidence[slot], config.drop_confidence),
        (submap.edge_certainty[slot], config.drop_certainty),
    ):
        keep &= values >= np.quantile(values.astype(np.float64), share)
    keep &= close_neighbours(depth) >= config.isolation
    keep &= facing_cosine(unproject(depth, submap.K[slot])) >= config.grazing_cos
    others = [slot + step for step in VIEWS if 0 <= slot + step < len(submap.depth)]
    if others:
        seen = [seen_from(submap, slot, other, config.consistency) for other in others]
        support, conflict = (np.sum(votes, axis=0) for votes in zip(*seen, strict=True))
        wanted = min(config.min_support, len(others))
        keep &= (support >= wanted) & (conflict * 2 <= support)
    return keep


def close_neighbours(
    depth: Float[ndarray, "h w"], tolerance: float = 0.05
) -> Float[ndarray, "h w"]:
    """How many of the 24 pixels around have about the same depth: flying points have few."""
    padded = np.pad(depth, 2)
    height, width = depth.shape
    count = np.zeros(depth.shape)
    for dy in range(5):
        for dx in range(5):
            other = padded[dy : dy + height, dx : dx + width]
            count += np.abs(other - depth) < tolerance * depth
    return count - 1


def facing_cosine(xyz: Float[ndarray, "h w 3"]) -> Float[ndarray, "h w"]:
    """Cosine between the viewing ray and the surface normal: 0 where the surface is grazed."""
    across, down = np.gradient(xyz, axis=1), np.gradient(xyz, axis=0)
    normal = np.cross(across, down)
    length = np.linalg.norm(normal, axis=2) * np.linalg.norm(xyz, axis=2)
    return np.abs((normal * xyz).sum(axis=2)) / np.maximum(length, 1e-12)


def seen_from(
    submap: Submap, slot: int, other: int, tolerance: float
) -> tuple[Bool[ndarray, "h w"], Bool[ndarray, "h w"]]:
    """Which points another frame sees at the same place, and which it looks through."""
    depth = submap.depth[slot].astype(np.float64)
    T_other_cam = invert_pose(submap.T_submap_cam[other]) @ submap.T_submap_cam[slot]
    xyz = transform_points(T_other_cam, unproject(depth, submap.K[slot]))
    uv = np.nan_to_num(project(xyz, submap.K[other]), nan=-1.0)
    column, row = np.floor(np.clip(uv, -1, 1e6)).astype(int).transpose(2, 0, 1)
    height, width = depth.shape
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    there = np.zeros(depth.shape)
    there[inside] = submap.depth[other][row[inside], column[inside]]
    z = xyz[..., 2]
    visible = inside & (there > 0)
    same = visible & (np.abs(there - z) <= tolerance * np.maximum(there, z))
    through = visible & (there > z * (1 + 2 * tolerance))
    return same, through
