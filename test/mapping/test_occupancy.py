"""The grid for planners, of a room made by hand."""

import numpy as np
import pytest
from numpy import ndarray
from scipy.spatial.transform import Rotation

from scal3r_ros.mapping.occupancy import (
    FREE,
    OCCUPIED,
    UNKNOWN,
    Grid,
    Seen,
    fitted_ground,
    occupancy_grid,
)

BAND = {"resolution": 0.1, "height_range": (0.2, 1.5), "min_hits": 2}
R_MAP_CAM = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])  # looks along map x


def plane(*spans: tuple[float, float, float]) -> ndarray:
    """Points every 4 cm of the box of (low, high) in x, y and z; a side may be 0."""
    axes = [np.arange(low, high + 1e-6, 0.04) for low, high, *_ in spans]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def camera(x: float, y: float, z: float, yaw_deg: float = 0.0) -> ndarray:
    T = np.eye(4)
    T[:3, :3] = Rotation.from_euler("z", yaw_deg, degrees=True).as_matrix() @ R_MAP_CAM
    T[:3, 3] = x, y, z
    return T


FLOOR = plane((0.2, 3, 0), (-1, 1, 0), (0, 0, 0))
WALL = plane((3, 3, 0), (-1, 1, 0), (0, 2, 0))
TABLE = plane((1.6, 2.2, 0), (-0.3, 0.3, 0), (0.7, 0.7, 0))
CAMERA = camera(0, 0, 1.2)


def at(grid: Grid, x: float, y: float) -> int:
    column, row = ((np.array([x, y]) - grid.origin) / grid.resolution).astype(int)
    return int(grid.cells[row, column])


def test_walls_and_tables_are_occupied_the_floor_is_free_and_the_rest_unknown():
    near = FLOOR[(FLOOR[:, 0] < 1.5) & (np.abs(FLOOR[:, 1]) < 0.6)]
    in_sight = near, WALL[WALL[:, 2] > 0.6], TABLE
    grid = occupancy_grid([Seen(np.concatenate(in_sight), CAMERA[None])], **BAND)
    assert at(grid, 3.0, 0.5) == OCCUPIED
    assert at(grid, 1.9, 0.0) == OCCUPIED  # most rays pass above it: it stays
    assert at(grid, 0.8, 0.2) == FREE
    assert at(grid, 0.2, 0.9) == UNKNOWN


def test_a_point_that_more_rays_pass_than_meet_is_no_obstacle():
    flying = np.array([[1.5, y, 0.9] for y in (0.0, 0.01, 0.02)])
    front = Seen(np.concatenate([FLOOR, WALL, flying]), CAMERA[None])
    alone = occupancy_grid([Seen(np.concatenate([FLOOR, flying]), CAMERA[None])], **BAND)
    assert at(alone, 1.5, 0.01) == OCCUPIED  # nothing was seen behind it
    assert at(occupancy_grid([front], **BAND), 1.5, 0.01) == FREE


def test_a_ray_begins_at_the_camera_that_saw_its_point():
    """Two cameras back to back, two metres apart: between them nothing was seen."""
    back = plane((-4, -4, 0), (-1, 1, 0), (0, 2, 0))
    cameras = np.stack([CAMERA, camera(-2, 0, 1.2, 180)])
    grid = occupancy_grid([Seen(np.concatenate([WALL, back]), cameras)], **BAND, ground=0.0)
    assert at(grid, -1.0, 0.0) == UNKNOWN
    assert at(grid, 1.0, 0.0) == FREE and at(grid, -3.0, 0.0) == FREE
    assert at(grid, 3.0, 0.5) == OCCUPIED and at(grid, -4.0, 0.5) == OCCUPIED


@pytest.mark.parametrize("tilt_deg", [0, 12, 28])
def test_the_floor_is_found_however_the_map_leans(rng, tilt_deg):
    low_points = rng.uniform((0, -1, -1.0), (3, 1, 2), (60, 3))  # some in the air, some below
    room = np.concatenate([FLOOR, WALL, TABLE, low_points])
    room += rng.normal(0, 0.03, room.shape)
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("y", tilt_deg, degrees=True).as_matrix()
    leaning = Seen(room @ turn[:3, :3].T, (turn @ CAMERA)[None])
    ground = fitted_ground([leaning])
    up = turn[:3, 2]
    assert np.degrees(np.arccos(ground.normal @ up)) < 2
    heights = ground.heights(FLOOR @ turn[:3, :3].T)
    assert np.abs(heights).max() < 0.12
    grid = occupancy_grid([leaning], **BAND)
    wall, floor = (turn[:3, :3] @ point for point in ([3.0, 0.5, 1.0], [1.0, 0.5, 0.0]))
    assert at(grid, *wall[:2]) == OCCUPIED
    assert at(grid, *floor[:2]) == FREE


def test_a_carried_camera_keeps_its_height_over_a_floor_that_is_bent(rng):
    """The map's floor leans by 9 degrees, the way of the cameras does not: it tells the level."""
    bent = FLOOR + FLOOR[:, :1] * [0, 0, np.tan(np.radians(9))] + rng.normal(0, 0.05, FLOOR.shape)
    places = [(x, y, 1.2 + rng.normal(0, 0.03)) for x in (0, 1, 2, 3) for y in (-1, 0, 1)]
    carried = Seen(bent, np.stack([camera(*place) for place in places]))
    stands = Seen(bent, CAMERA[None])
    level, leaning = (
        np.degrees(np.arccos(fitted_ground([s]).normal[2])) for s in (carried, stands)
    )
    assert level < 2
    assert leaning > 7


def test_a_climbing_camera_tells_no_level(rng):
    climbing = np.stack([camera(0.1 * k, 0.02 * k * (-1) ** k, 1.0 + 0.1 * k) for k in range(20)])
    room = np.concatenate([FLOOR, WALL]) + rng.normal(0, 0.02, (len(FLOOR) + len(WALL), 3))
    ground = fitted_ground([Seen(room, climbing)])
    assert np.degrees(np.arccos(ground.normal[2])) < 2
    assert abs(ground.heights(np.zeros((1, 3)))[0]) < 0.1


def test_without_a_floor_the_lowest_points_are_the_ground():
    ceiling = FLOOR + [0, 0, 2.0]
    ground = fitted_ground([Seen(ceiling, CAMERA[None])])
    np.testing.assert_allclose(ground.normal, [0, 0, 1])
    assert ground.point[2] == pytest.approx(2.0)


def test_a_wall_alone_tells_no_floor():
    ground = fitted_ground([Seen(WALL, CAMERA[None])])
    np.testing.assert_allclose(ground.normal, [0, 0, 1])


def test_the_maps_own_level_where_it_is_asked_for():
    seen = Seen(np.concatenate([FLOOR, WALL]), CAMERA[None])
    grid = occupancy_grid([seen], **BAND, ground=-0.4)  # the floor is 0.4 above it: an obstacle
    assert at(grid, 2.0, 0.0) == OCCUPIED


def test_a_grid_of_nothing_is_refused():
    with pytest.raises(ValueError, match="needs points"):
        occupancy_grid([], **BAND)
