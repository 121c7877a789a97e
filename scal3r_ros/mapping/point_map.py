"""The dense map: filtered, voxelised clouds anchored to their submaps."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32, UInt8
from numpy import ndarray

from scal3r_ros.geometry.camera import transform_points, unproject
from scal3r_ros.geometry.voxels import crowd, strongest_per_voxel
from scal3r_ros.mapping.config import PointMapConfig
from scal3r_ros.mapping.point_filters import frame_filter
from scal3r_ros.mapping.shelf import Shelf, Shelved
from scal3r_ros.mapping.types import MapUpdate, Submap

CROWD_VOXELS = 2.5  # side of the cells in which points are counted


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
        return Cloud(*(np.array(stored[name]) for name in ("xyz", "rgb", "confidence")))

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
    return _filtered_cloud(submap, range(submap.first_new, len(submap.depth)), config)


def newest_view(submap: Submap, config: PointMapConfig) -> Cloud:
    """What the newest frame alone sees, in the submap's frame: a ray from its camera to every point
    is free, as costmaps take it."""
    alone = replace(config, crowd=0)  # the points of one frame keep little company
    return _filtered_cloud(submap, [len(submap.depth) - 1], alone)


def _filtered_cloud(submap: Submap, slots: Iterable[int], config: PointMapConfig) -> Cloud:
    """Points of some frames that pass every filter, one per voxel, in company."""
    median = submap.median_depth
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
