"""Flat grids for planners: occupancy by hits and by the rays that saw them, and heights."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float32, Int, Int8
from numpy import ndarray

from scal3r_ros.geometry.voxels import voxel_keys

UNKNOWN, FREE, OCCUPIED = -1, 0, 100
MAX_CELLS = 4_000_000
SAMPLE = 40_000  # points that rays are cast to, and among which the ground is sought
UPPER = 0.9  # share of the points of a cell that its height leaves below
SHORT = 3  # cells before its point a ray is no longer followed: depth is not that sure
STEEPEST = 0.7  # rad, of the ground against the map's level: a hand-held camera looks down
THICK = 0.1  # of the ground, share of the cameras' height
UNSTEADY = 0.2  # of a camera's height, deviation, share of it: beyond, the way tells no level
LOW, COLUMN_POINTS = 0.2, 3  # share of a column's points that lie below its low one; at least
WAY_WEIGHT = 4.0  # of the way against the ground's points
LEVEL = np.array([0.0, 0.0, 1.0])
GROUND_POINTS, LEAST_POINTS, PLANES, FINALISTS, POLISH, LEVELLINGS = 1500, 30, 10_000, 500, 5, 3


@dataclass(frozen=True, eq=False)
class HeightField:
    """Row 0 is the lowest y; `origin` is the outer corner of cell (0, 0), map units."""

    heights: Float32[ndarray, "h w"]  # NaN = unknown
    origin: tuple[float, float]
    resolution: float


@dataclass(frozen=True, eq=False)
class Grid:
    """Row 0 is the lowest y; `origin` is the outer corner of cell (0, 0), map units."""

    cells: Int8[ndarray, "h w"]
    origin: tuple[float, float]
    resolution: float


@dataclass(frozen=True, eq=False)
class Seen:
    """Points, and the cameras of which one saw each; in the map frame."""

    xyz: Float[ndarray, "n 3"]
    T_map_cam: Float[ndarray, "m 4 4"]

    def origins(self) -> Float[ndarray, "n 3"]:
        """For each point the centre of the camera that looks most straight at it."""
        T = self.T_map_cam
        away = self.xyz[:, None] - T[:, :3, 3]
        ahead = np.einsum("nmk,mk->nm", away, T[:, :3, 2])
        straight = ahead / np.maximum(np.linalg.norm(away, axis=2), 1e-9)
        return T[straight.argmax(axis=1), :3, 3]


@dataclass(frozen=True, eq=False)
class Ground:
    """Heights are measured along its normal (which points up) from a point of it."""

    normal: Float[ndarray, " 3"]
    point: Float[ndarray, " 3"]

    def heights(self, xyz: Float[ndarray, "*n 3"]) -> Float[ndarray, "*n"]:
        return (xyz - self.point) @ self.normal


def occupancy_grid(
    seen: Sequence[Seen],
    *,
    resolution: float,
    height_range: tuple[float, float],
    min_hits: int,
    ground: float | None = None,
) -> Grid:
    """Points between the heights above the ground are obstacles, unless more rays pass the place
    than end there; where rays pass and no obstacle is, it is free.

    The ground is level at `ground` (map z), or the plane that `fitted_ground` finds. Raises
    ValueError on an empty cloud.
    """
    xyz = np.concatenate([part.xyz for part in seen]) if seen else np.zeros((0, 3))
    _, low, shape, resolution = _laid_out(xyz, resolution)
    below = fitted_ground(seen) if ground is None else Ground(LEVEL, ground * LEVEL)
    voxels = _Voxels(low, shape, resolution, height_range, below)
    occupied, hits = np.unique(voxels.of(xyz)[0], return_counts=True)
    free, passed = _passed(seen, voxels, occupied)
    believed = hits >= passed
    cells = np.full(shape, UNKNOWN, np.int8)
    cells.flat[free] = FREE
    counted = np.bincount(occupied[believed] // voxels.layers, hits[believed], cells.size)
    cells.flat[np.flatnonzero(counted >= min_hits)] = OCCUPIED
    return Grid(cells, (float(low[0]), float(low[1])), float(resolution))


@dataclass(frozen=True, eq=False)
class _Voxels:
    """Of a grid, in layers over the ground."""

    low: Float[ndarray, " 2"]
    shape: tuple[int, int]
    side: float
    height_range: tuple[float, float]
    ground: Ground

    @property
    def layers(self) -> int:
        return max(1, int(np.ceil((self.height_range[1] - self.height_range[0]) / self.side)))

    def of(self, xyz: Float[ndarray, "n 3"]) -> tuple[Int[ndarray, " k"], Int[ndarray, " l"]]:
        """Voxels of the points between the heights, and cells of all points; without those beside
        the grid."""
        column, row = np.floor((xyz[:, :2] - self.low) / self.side).astype(np.int64).T
        inside = (column >= 0) & (row >= 0) & (column < self.shape[1]) & (row < self.shape[0])
        cell = row[inside] * self.shape[1] + column[inside]
        above = self.ground.heights(xyz[inside]) - self.height_range[0]
        layer = np.floor(above / self.side).astype(np.int64)
        between = (layer >= 0) & (layer < self.layers)
        return cell[between] * self.layers + layer[between], cell


def _passed(
    seen: Sequence[Seen], voxels: _Voxels, occupied: Int[ndarray, " k"]
) -> tuple[Int[ndarray, " f"], Int[ndarray, " k"]]:
    """Cells that rays pass, and how many pass each of the `occupied` voxels (sorted)."""
    step = max(1, -(-sum(len(part.xyz) for part in seen) // SAMPLE))
    rays = [Seen(part.xyz[::step], part.T_map_cam) for part in seen if len(part.xyz)]
    starts = np.concatenate([ray.origins() for ray in rays])
    ends = np.concatenate([ray.xyz for ray in rays])
    length = np.linalg.norm(ends - starts, axis=1)
    ahead = (ends - starts) / np.maximum(length, 1e-9)[:, None]
    free, passed = np.zeros(voxels.shape, bool), np.zeros(len(occupied), np.int64)
    going, way = np.arange(len(ends)), 0.0
    while len(going := going[length[going] - way > SHORT * voxels.side]):
        through, cells = voxels.of(starts[going] + way * ahead[going])
        free.flat[cells] = True
        at = np.searchsorted(occupied, through).clip(max=max(len(occupied) - 1, 0))
        known = occupied[at] == through if len(occupied) else np.zeros(len(through), bool)
        np.add.at(passed, at[known], step)
        way += voxels.side
    return np.flatnonzero(free), passed


def fitted_ground(seen: Sequence[Seen]) -> Ground:
    """The plane with most of the map on it and least below it, over which the cameras keep their
    height if they do over any: up to `STEEPEST` out of level, for a map need not be level. Level,
    under 98 % of the points, where there is none below the cameras."""
    xyz = np.concatenate([part.xyz for part in seen]).astype(np.float64)
    centres = np.concatenate([part.T_map_cam[:, :3, 3] for part in seen])
    rng = np.random.default_rng(0)
    xyz = xyz[rng.permutation(len(xyz))[:SAMPLE]]
    lowest = float(np.quantile(xyz[:, 2], 0.02))
    ground = Ground(LEVEL, lowest * LEVEL)
    for _ in range(LEVELLINGS):  # what lies below, and how far, is seen better from a nearer level
        ground = _largest_plane(xyz, centres, ground, rng)
    return _where_most_is_lowest(xyz, centres, ground)


def _where_most_is_lowest(
    xyz: Float[ndarray, "n 3"], centres: Float[ndarray, "m 3"], ground: Ground
) -> Ground:
    """Moved to where the low points of most columns of the map lie: few fly below the ground."""
    thick = THICK * float(np.median(ground.heights(centres)))
    if thick <= 0:
        return ground
    across = np.linalg.svd(ground.normal[None])[2][1:]
    column = np.floor(xyz @ across.T / thick).astype(int)
    _, column, count = np.unique(column, axis=0, return_inverse=True, return_counts=True)
    heights = ground.heights(xyz)
    ordered = heights[np.lexsort((heights, column.reshape(-1)))]
    low = (np.cumsum(count) - count + LOW * (count - 1)).astype(int)
    low = np.sort(ordered[low[count >= COLUMN_POINTS]])
    if len(low) < LEAST_POINTS:
        return ground
    near = np.searchsorted(low, low + thick, "right") - np.searchsorted(low, low - thick)
    return replace(ground, point=ground.point + low[near.argmax()] * ground.normal)


def _largest_plane(
    xyz: Float[ndarray, "n 3"],
    centres: Float[ndarray, "m 3"],
    near: Ground,
    rng: np.random.Generator,
) -> Ground:
    """RANSAC, then least squares; the ground that it was `near` where there is no better one."""
    heights, height = near.heights(xyz), float(np.median(near.heights(centres)))
    below = xyz[heights < height]
    if height <= 0 or len(below) < LEAST_POINTS:
        return near
    places = voxel_keys(below, THICK * height)  # a place counts once, however well seen
    some = below[np.unique(places, return_index=True)[1]]
    some = rng.permutation(some)[:GROUND_POINTS]
    a, b, c = some[rng.integers(len(some), size=(3, PLANES))]
    normal = np.cross(b - a, c - a)
    length = np.linalg.norm(normal, axis=1)
    normal *= (np.sign(normal @ LEVEL) / np.maximum(length, 1e-12))[:, None]
    offset = (a * normal).sum(axis=1)
    possible = normal @ LEVEL > np.cos(STEEPEST)
    possible &= normal @ centres.mean(axis=0) > offset
    if not possible.any():
        return near
    a, normal, offset = a[possible], normal[possible], offset[possible]
    way = np.cov(centres.T, bias=True)
    unsteady = np.sqrt(np.maximum(((normal @ way) * normal).sum(axis=1), 0)) / height

    def score(points: Float[ndarray, "k 3"], planes: Int[ndarray, " p"]) -> Float[ndarray, " p"]:
        above = (points @ normal[planes].T - offset[planes]) / height  # points x planes
        votes = (np.abs(above) < THICK).mean(axis=0) - (above < -2 * THICK).mean(axis=0)
        return votes - np.minimum(unsteady[planes], UNSTEADY)

    planes = np.arange(len(a))
    if len(planes) > FINALISTS:  # a tenth of the points tells which are worth a closer look
        first = score(some[: GROUND_POINTS // 10], planes)
        planes = np.argpartition(-first, FINALISTS)[:FINALISTS]
    best = planes[score(some, planes).argmax()]
    ground = Ground(normal[best], a[best])
    for _ in range(POLISH):
        on = some[np.abs(ground.heights(some)) < THICK * height]
        if len(on) < LEAST_POINTS:
            break
        spread = np.cov(on.T, bias=True)
        if ground.heights(centres).std() < UNSTEADY * height:
            spread += WAY_WEIGHT * way
        up = np.linalg.eigh(spread)[1][:, 0]
        ground = Ground(up * np.sign(up @ LEVEL), on.mean(axis=0))
    return ground


def height_field(xyz: Float[ndarray, "n 3"], *, resolution: float) -> HeightField:
    """The height below which nine tenths of a cell's points lie: a few that fly do not count.
    Raises ValueError on an empty cloud."""
    points, low, shape, resolution = _laid_out(xyz, resolution)
    columns, rows = ((points[:, :2] - low) / resolution).astype(int).T
    cell = rows * shape[1] + columns
    order = np.lexsort((points[:, 2], cell))
    seen, first, count = np.unique(cell[order], return_index=True, return_counts=True)
    heights = np.full(shape, np.nan, np.float32)
    heights.flat[seen] = points[order[first + (UPPER * (count - 1)).astype(int)], 2]
    return HeightField(heights, (float(low[0]), float(low[1])), float(resolution))


def _laid_out(
    xyz: Float[ndarray, "n 3"], resolution: float
) -> tuple[Float[ndarray, "m 3"], Float[ndarray, " 2"], tuple[int, int], float]:
    """Points without the outermost, the corner of cell (0, 0), rows and columns, and the side of a
    cell: coarser rather than out of memory."""
    if not len(xyz):
        raise ValueError("a grid needs points")
    low, high = np.quantile(xyz[:, :2], [0.005, 0.995], axis=0)
    size = (high - low) / resolution + 1
    while size.prod() > MAX_CELLS:
        resolution *= 2
        size = (high - low) / resolution + 1
    width, height = np.ceil(size).astype(int).tolist()
    inside = ((xyz[:, :2] >= low) & (xyz[:, :2] <= high)).all(axis=1)
    return xyz[inside], low, (height, width), resolution
