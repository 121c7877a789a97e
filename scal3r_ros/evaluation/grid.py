"""The grid for planners, against the one that a depth sensor and the true poses give."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, Int8, UInt8
from numpy import ndarray

from scal3r_ros.data.sequence import SequenceError, open_sequence
from scal3r_ros.data.sequence_folder import files_beside, read_depth
from scal3r_ros.data.tum import read_trajectory
from scal3r_ros.evaluation.trajectory import associate
from scal3r_ros.geometry.align import umeyama
from scal3r_ros.geometry.camera import scale_intrinsics, transform_points, unproject
from scal3r_ros.geometry.sim3 import Sim3
from scal3r_ros.mapping.config import MapperConfig
from scal3r_ros.mapping.mapper import Mapper
from scal3r_ros.mapping.occupancy import FREE, OCCUPIED, UNKNOWN, Grid, Seen, occupancy_grid
from scal3r_ros.mapping.pipeline import map_sequence
from scal3r_ros.mapping.prediction import Predictor

CELL, HEIGHTS = 0.1, (0.2, 2.0)  # metres
MIN_HITS, MIN_SENSOR_HITS = 2, 6  # points that make a cell occupied: of the map, of the sensor
EVERY, FAR = 4, 6.0  # pixels, metres of the sensor's depth that count
SHADES = {UNKNOWN: 90, FREE: 235, OCCUPIED: 20}
ZOOM, PATH = 4, (60, 190, 255)


def evaluate_grid(
    folder: Path, predictor: Predictor, config: MapperConfig, picture: Path | None = None
) -> dict[str, Any]:
    """Of cells that both grids know: which of the occupied and of the free ones are right, which
    are found. Raises SequenceError for a folder without depth/ or groundtruth.txt."""
    mapper = Mapper(predictor, config)
    map_sequence(open_sequence(folder), mapper, None)
    truth = read_trajectory(folder / "groundtruth.txt")
    true, found, _ = associate(truth, dict(mapper.keyframe_stamped_poses()))
    T_map_truth = umeyama(found[:, :3, 3], true[:, :3, 3], np.ones(len(true)))
    seen, measured = mapped(mapper), _measured(folder, truth, T_map_truth)
    s = T_map_truth.s
    sizes = {"resolution": CELL * s, "height_range": (HEIGHTS[0] * s, HEIGHTS[1] * s)}
    grid = occupancy_grid(seen, min_hits=MIN_HITS, **sizes)
    sensor = _like(grid, occupancy_grid(measured, min_hits=MIN_SENSOR_HITS, **sizes))
    if picture is not None:
        drawn = [_drawn(cells, grid, found[:, :2, 3]) for cells in (sensor, grid.cells)]
        cv2.imwrite(str(picture), np.concatenate(drawn, axis=1))
    known = (sensor != UNKNOWN) & (grid.cells != UNKNOWN)
    result: dict[str, Any] = {"cells that both know": int(known.sum())}
    for name, kind in (("occupied", OCCUPIED), ("free", FREE)):
        said, is_so = (grid.cells == kind) & known, (sensor == kind) & known
        result[f"{name}, right"] = round(float((said & is_so).sum() / max(said.sum(), 1)), 3)
        result[f"{name}, found"] = round(float((said & is_so).sum() / max(is_so.sum(), 1)), 3)
    return result


def mapped(mapper: Mapper) -> list[Seen]:
    """The map's points, submap by submap, with the keyframes that they are of."""
    parts = []
    for submap in mapper.submaps:
        xyz = mapper.point_map.placed(submap.index).xyz.astype(np.float64)
        T_map_cam = submap.T_map_submap.apply_pose(submap.T_submap_cam)
        parts.append(Seen(xyz, T_map_cam[submap.first_new :]))
    return parts


def _measured(
    folder: Path, truth: dict[int, Float[ndarray, "4 4"]], T_map_truth: Sim3
) -> list[Seen]:
    parts, measured = [], files_beside(folder, "depth")
    for frame in open_sequence(folder):
        path, T = measured.get(frame.index), truth.get(frame.stamp_ns)
        if path is None or T is None or frame.K is None:
            continue
        depth = read_depth(path)
        K = scale_intrinsics(frame.K, frame.image.shape[:2], depth.shape)
        near = (depth > 0) & (depth < FAR)
        near[np.arange(len(near)) % EVERY != 0] = False
        near[:, np.arange(near.shape[1]) % EVERY != 0] = False
        xyz = transform_points(T, unproject(depth.astype(np.float64), K)[near])
        parts.append(Seen(T_map_truth.apply(xyz), T_map_truth.apply_pose(T)[None]))
    if not parts:
        raise SequenceError(f"{folder} needs depth/, camera.yaml and groundtruth.txt")
    return parts


def _like(grid: Grid, other: Grid) -> Int8[ndarray, "h w"]:
    """The other grid at the cells of the first."""
    rows, columns = np.indices(grid.cells.shape)
    x = grid.origin[0] + (columns + 0.5) * grid.resolution
    y = grid.origin[1] + (rows + 0.5) * grid.resolution
    column = np.floor((x - other.origin[0]) / other.resolution).astype(int)
    row = np.floor((y - other.origin[1]) / other.resolution).astype(int)
    height, width = other.cells.shape
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    there = other.cells[row.clip(0, height - 1), column.clip(0, width - 1)]
    return np.where(inside, there, np.int8(UNKNOWN))


def _drawn(
    cells: Int8[ndarray, "h w"], grid: Grid, path: Float[ndarray, "n 2"]
) -> UInt8[ndarray, "a b 3"]:
    """Free is white, occupied black, y up; the cameras' way on it."""
    shade = np.full(cells.shape, SHADES[UNKNOWN], np.uint8)
    for kind in (FREE, OCCUPIED):
        shade[cells == kind] = SHADES[kind]
    large = cv2.resize(shade, None, fx=ZOOM, fy=ZOOM, interpolation=cv2.INTER_NEAREST)
    image = cv2.cvtColor(np.asarray(large), cv2.COLOR_GRAY2BGR)
    way = ((path - grid.origin) / grid.resolution * ZOOM).round().astype(np.int32)
    cv2.polylines(image, [way], False, PATH, 2)
    return np.asarray(image)[::-1]
