"""Flat grids for planners: occupancy by hits and by the rays that saw them, and heights."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int8
from numpy import ndarray

UNKNOWN, FREE, OCCUPIED = -1, 0, 100
MAX_CELLS = 4_000_000
MAX_RAYS = 40_000
UPPER = 0.9  # share of the points of a cell that its height leaves below


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


def occupancy_grid(
    xyz: Float[ndarray, "n 3"],
    cameras: Float[ndarray, "m 3"],
    *,
    resolution: float,
    height_range: tuple[float, float],
    min_hits: int,
    ground: float | None = None,
) -> Grid:
    """Points between the heights above the ground are obstacles, rays to any point are free.

    The ground is the 2nd percentile of the points' heights where it is not told. Raises ValueError
    on an empty cloud.
    """
    points, low, (height, width), resolution = _laid_out(xyz, resolution)
    cells = np.full((height, width), UNKNOWN, np.int8)
    if len(cameras):
        _clear_rays(cells, points, cameras, low, resolution)
    above = points[:, 2] - (np.quantile(xyz[:, 2], 0.02) if ground is None else ground)
    obstacle = points[(above >= height_range[0]) & (above <= height_range[1])]
    columns, rows = ((obstacle[:, :2] - low) / resolution).astype(int).T
    hits = np.zeros(cells.shape, np.int64)
    np.add.at(hits, (rows, columns), 1)
    cells[hits >= min_hits] = OCCUPIED
    return Grid(cells, (float(low[0]), float(low[1])), float(resolution))


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


def _clear_rays(
    cells: Int8[ndarray, "h w"],
    points: Float[ndarray, "n 3"],
    cameras: Float[ndarray, "m 3"],
    low: Float[ndarray, " 2"],
    resolution: float,
) -> None:
    """Frees the cells between each point and the nearest camera."""
    from scipy.spatial import cKDTree

    ends = points[:: max(1, len(points) // MAX_RAYS), :2]
    _, nearest = cKDTree(cameras[:, :2]).query(ends)
    starts = cameras[nearest, :2]
    steps = int(np.linalg.norm(ends - starts, axis=1).max() / resolution) + 2 if len(ends) else 0
    for share in np.linspace(0, 0.97, max(steps, 2)):
        at = ((starts + share * (ends - starts) - low) / resolution).astype(int)
        valid = ((at >= 0) & (at < cells.shape[::-1])).all(axis=1)
        cells[at[valid, 1], at[valid, 0]] = FREE
