"""Turn and direction from points of unknown depth, length from the few that are known."""

import cv2
import numpy as np
import pytest

from scal3r_ros.geometry.camera import transform_points
from scal3r_ros.geometry.sim3 import invert_pose
from scal3r_ros.tracking.two_view import directed_step, relative_motion

FOCAL = 300.0


def street(rng, count: int = 200) -> np.ndarray:
    """Points of a road and facades before a camera 1.6 m above it."""
    z = rng.uniform(4, 40, count)
    road = rng.random(count) < 0.6
    x = np.where(road, rng.uniform(-3, 3, count), rng.choice([-8.0, 8.0], count))
    y = np.where(road, 1.6, rng.uniform(-6, 1.6, count))
    return np.stack([x, y, z], axis=1)


def seen(xyz: np.ndarray, T_world_cam: np.ndarray, rng) -> np.ndarray:
    cam = transform_points(invert_pose(T_world_cam), xyz)
    return cam[:, :2] / cam[:, 2:] + rng.normal(0, 0.2 / FOCAL, (len(xyz), 2))


def pose(turn_deg: float, step) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3] = cv2.Rodrigues(np.deg2rad([0.3 * turn_deg, turn_deg, 0.0]))[0]
    T[:3, 3] = step
    return T


@pytest.mark.parametrize(
    ("turn_deg", "step"), [(0.3, (0, 0, 1)), (4, (0.1, 0, 0.8)), (-2, (1, 0, 0))]
)
def test_forward_over_a_road_is_no_turn(rng, turn_deg, step):
    """All points at one depth, as once assumed, made ten degrees of it."""
    xyz, T = street(rng), pose(turn_deg, step)
    wrong = rng.random(len(xyz)) < 0.2
    now = seen(xyz, T, rng)
    now[wrong] += rng.uniform(-0.1, 0.1, (int(wrong.sum()), 2))
    found = relative_motion(seen(xyz, np.eye(4), rng), now, FOCAL)
    assert found is not None
    T_found, agree = found
    turn = T_found[:3, :3].T @ T[:3, :3]
    assert np.degrees(np.arccos((np.trace(turn) - 1) / 2)) < 0.6
    direction = np.asarray(step) / np.linalg.norm(step)
    assert T_found[:3, 3] @ direction > np.cos(np.deg2rad(4))
    assert agree[~wrong].mean() > 0.8 and agree[wrong].mean() < 0.3


def test_a_mere_turn_has_no_direction(rng):
    xyz, T = street(rng), pose(5, (0, 0, 0))
    found = relative_motion(seen(xyz, np.eye(4), rng), seen(xyz, T, rng), FOCAL)
    assert found is not None and not found[0][:3, 3].any()
    np.testing.assert_allclose(found[0][:3, :3], T[:3, :3], atol=2e-3)


@pytest.mark.parametrize("known", [0, 8])
def test_few_known_points_give_the_length_or_else_the_usual_depth(rng, known):
    xyz, before, T = street(rng), pose(3, (2, 0, 5)), pose(5, (2, 0, 6.5))
    odom = xyz + [0, 0, 10]
    told = np.full_like(odom, np.nan)
    told[:known] = odom[:known]
    pixels = [seen(odom, P, rng) for P in (before, T)]
    usual = float(np.median(odom[:, 2] - 5))
    found = directed_step(before, usual, told, *pixels, FOCAL)
    assert found is not None
    T_now, _ = found
    length = np.linalg.norm(T_now[:3, 3] - before[:3, 3])
    assert length == pytest.approx(1.5, rel=0.1 if known else 0.7)


def test_points_that_agree_on_nothing_are_refused(rng):
    before, now = rng.uniform(-0.5, 0.5, (2, 100, 2))
    assert relative_motion(before, now, FOCAL) is None
