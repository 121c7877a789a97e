"""What the map leaves out: points in the air, surfaces that one frame alone sees."""

from dataclasses import replace

import numpy as np
import pytest
from numpy import ndarray

from scal3r_ros.geometry.camera import intrinsics, project, transform_points, unproject
from scal3r_ros.geometry.sim3 import invert_pose
from scal3r_ros.mapping.config import PointMapConfig
from scal3r_ros.mapping.point_filters import (
    close_neighbours,
    facing_cosine,
    frame_filter,
    seen_from,
)
from scal3r_ros.mapping.types import Submap

SIZE = HEIGHT, WIDTH = 48, 64
K = intrinsics(60.0, 60.0, 32.0, 24.0)
NEAR, FAR, EDGE = 2.0, 4.0, 30  # two walls, the nearer one up to this column


def walls() -> ndarray:
    return np.tile(np.where(np.arange(WIDTH) < EDGE, NEAR, FAR), (HEIGHT, 1))


def submap(depth: ndarray, steps: ndarray) -> Submap:
    """Cameras that look the same way, `steps` to the right of each other."""
    count = len(steps)
    T = np.tile(np.eye(4), (count, 1, 1))
    T[:, 0, 3] = steps
    alike = np.ones((count, *SIZE), np.float16)
    return Submap(
        index=0,
        frame_indices=tuple(range(count)),
        stamps_ns=tuple(range(count)),
        overlap=0,
        depth=np.broadcast_to(depth, (count, *SIZE)).astype(np.float16),
        confidence=alike,
        edge_certainty=alike,
        K=np.tile(K, (count, 1, 1)),
        T_submap_cam=T,
        descriptors=np.zeros((count, 4), np.float32),
        thumbnails=np.zeros((count, *SIZE, 3), np.uint8),
    )


def test_points_between_two_walls_are_left_out_and_the_walls_stay():
    depth = walls()
    depth[:, EDGE : EDGE + 2] = 2.6, 3.2  # what a smooth network makes of the edge
    kept = frame_filter(submap(depth, np.zeros(1)), 0, 3.0, PointMapConfig())
    assert not kept[:, EDGE : EDGE + 2].any()
    assert kept[4:-4, 4 : EDGE - 2].all()
    assert kept[4:-4, EDGE + 4 : -4].all()


def test_a_surface_that_one_frame_alone_sees_is_left_out():
    depth = np.broadcast_to(np.float16(FAR), (6, *SIZE)).copy()
    patch = slice(10, 30), slice(20, 40)
    depth[2][patch] = 3.0
    kept = frame_filter(submap(depth, np.zeros(6)), 2, FAR, PointMapConfig())
    assert not kept[patch].any()
    beside = kept.copy()
    beside[8:32, 18:42] = True  # at its border the surface is grazed
    assert beside.all()


@pytest.mark.parametrize(
    "name", ["drop_confidence", "drop_certainty"], ids=["confidence", "gate certainty"]
)
def test_the_least_certain_share_of_a_frame_is_left_out(name: str):
    seen = submap(np.full(SIZE, FAR), np.zeros(1))
    values = np.linspace(1, 2, HEIGHT * WIDTH).reshape(1, *SIZE).astype(np.float16)
    field = name.replace("drop_certainty", "edge_certainty").removeprefix("drop_")
    config = replace(PointMapConfig(drop_confidence=0.0, drop_certainty=0.0), **{name: 0.25})
    kept = frame_filter(replace(seen, **{field: values}), 0, FAR, config)
    assert kept.mean() == pytest.approx(0.75, abs=0.01)
    assert not kept[: HEIGHT // 5].any()


def test_no_depth_no_point():
    depth = walls()
    depth[5, 7], depth[6, 50] = 0.0, 100.0
    kept = frame_filter(submap(depth, np.zeros(3)), 1, 3.0, PointMapConfig())
    assert not kept[5, 7] and not kept[6, 50]


def test_votes_are_those_of_projecting_every_point(rng: np.random.Generator):
    depth = rng.uniform(1.0, 5.0, (2, *SIZE)).astype(np.float16)
    depth[rng.random(depth.shape) < 0.1] = 0
    two = submap(depth, np.array([0.0, 0.7]))
    two.T_submap_cam[1, :3, :3] = np.array([[0.96, 0, -0.28], [0, 1, 0], [0.28, 0, 0.96]])
    xyz = unproject(two.depth[0].astype(np.float32), K)[two.depth[0] > 0].astype(np.float32)
    same, through = seen_from(two, 0, 1, xyz, tolerance=0.2)
    there = transform_points(invert_pose(two.T_submap_cam[1]), xyz)
    found = []
    for (u, v), z in zip(project(there, K), there[:, 2], strict=True):
        inside = 0 <= u < WIDTH and 0 <= v < HEIGHT
        d = float(two.depth[1][int(v), int(u)]) if inside else 0.0
        found.append((d > 0 and abs(d - z) <= 0.2 * max(d, z), d > 1.4 * z and d > 0))
    assert 0.02 < same.mean() < 0.5 and 0.02 < through.mean() < 0.5
    differing = (np.array(found) != np.stack([same, through], axis=1)).any(axis=1)
    assert differing.mean() < 2e-3  # points at the border of two pixels, in single precision


def test_a_wall_seen_at_an_angle():
    xyz = np.empty((*SIZE, 3), np.float32)
    x = (np.arange(WIDTH) + 0.5 - 32) / 60
    turn = np.radians(60)  # of the wall's normal from the camera's axis, to the right
    z = 3 * np.cos(turn) / (np.cos(turn) - x * np.sin(turn))
    rows = (np.arange(HEIGHT) + 0.5 - 24) / 60
    xyz[:] = np.stack(
        [np.tile(x * z, (HEIGHT, 1)), rows[:, None] * z, np.tile(z, (HEIGHT, 1))], axis=-1
    )
    ray = xyz / np.linalg.norm(xyz, axis=2, keepdims=True)
    true = np.abs(ray[..., 0] * -np.sin(turn) + ray[..., 2] * np.cos(turn))
    np.testing.assert_allclose(facing_cosine(xyz)[1:-1, 1:-1], true[1:-1, 1:-1], atol=0.02)


def test_close_neighbours_are_counted_within_the_image():
    count = close_neighbours(np.full(SIZE, 2.0, np.float32))
    assert count[10, 10] == 24 and count[0, 0] == 8
