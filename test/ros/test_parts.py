"""Conversions, parameters, transforms, the frame queue: no node needed."""

import array

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from std_msgs.msg import Header

from scal3r_ros.data.calibration import camera_of_info
from scal3r_ros.geometry.camera import project
from scal3r_ros.geometry.sim3 import Sim3
from scal3r_ros.mapping.occupancy import HeightField
from scal3r_ros.mapping.point_map import Cloud
from scal3r_ros.mapping.types import Frame
from scal3r_ros.ros.chunk_map import ChunkMap
from scal3r_ros.ros.conversions import (
    camera_to_info,
    cloud_to_message,
    float_to_image,
    image_to_float,
    image_to_rgb,
    list_to_sim3,
    matrix_to_pose,
    message_to_cloud,
    ns_to_stamp,
    pose_to_matrix,
    rgb_to_image,
    sim3_to_list,
    stamp_to_ns,
    to_ros_bytes,
)
from scal3r_ros.ros.documents import interface_text, yaml_text
from scal3r_ros.ros.elevation import elevation_message
from scal3r_ros.ros.fallback.tf import TransformError, TransformTree
from scal3r_ros.ros.frame_queue import FrameCounters, FrameQueue
from scal3r_ros.ros.interfaces import Chunk, Corrections
from scal3r_ros.ros.mask import painted_over
from scal3r_ros.ros.parameters import NODES
from scal3r_ros.ros.rebuild import every_point
from scal3r_ros.tracking.features import find_corners
from test.conftest import ROOT, random_sim3

pytestmark = pytest.mark.ros


IMAGE = np.zeros((2, 2, 3), np.uint8)


def test_the_yaml_holds_every_parameter_with_its_default():
    assert (ROOT / "config" / "mapping.yaml").read_text() == yaml_text()
    assert (ROOT / "docs" / "interface.md").read_text() == interface_text()
    assert set(NODES) == {"mapping_node", "odometry_node", "map_node"}


@given(st.integers(0, 2**31 * 10**9 - 1))
def test_stamps_lose_nothing(ns):
    assert stamp_to_ns(ns_to_stamp(ns)) == ns


def test_messages_and_back(rng):
    head = Header(frame_id="cam")
    rgb = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(image_to_rgb(rgb_to_image(rgb, head)), rgb)
    depth = rng.uniform(1, 5, (6, 8)).astype(np.float32)
    depth[0, 0] = 0
    message = float_to_image(depth, head)
    assert np.isnan(np.frombuffer(message.data, np.float32)[0])  # REP 118: none is NaN
    np.testing.assert_array_equal(image_to_float(message), depth)
    cloud = Cloud(
        rng.normal(0, 1, (9, 3)).astype(np.float32),
        rng.integers(0, 256, (9, 3), dtype=np.uint8),
        rng.uniform(1, 2, 9).astype(np.float32),
    )
    back = message_to_cloud(cloud_to_message(cloud, head))
    for name in ("xyz", "rgb", "confidence"):
        np.testing.assert_array_equal(getattr(back, name), getattr(cloud, name))
    T = random_sim3(rng)
    np.testing.assert_allclose(list_to_sim3(sim3_to_list(T)).as_matrix(), T.as_matrix())
    np.testing.assert_allclose(pose_to_matrix(matrix_to_pose(T.pose)), T.pose, atol=1e-12)


def test_camera_info_has_integer_pixel_centres(rng):
    K = np.array([[300.0, 0, 160.0], [0, 310.0, 120.0], [0, 0, 1]])
    info = camera_to_info(K, 240, 320, Header())
    assert (info.k[2], info.k[5]) == (159.5, 119.5)
    np.testing.assert_allclose(camera_of_info(info).K, K)
    info.k = [0.0] * 9
    assert camera_of_info(info) is None


def test_large_data_travels_as_an_array():
    """rclpy takes a second for a cloud of numpy, milliseconds for array.array."""
    data = to_ros_bytes(np.arange(6, dtype=np.uint8))
    assert isinstance(data, array.array)
    assert data.tolist() == [0, 1, 2, 3, 4, 5]


def pose(x: float, angle: float = 0.0) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3] = Rotation.from_euler("z", angle).as_matrix()
    T[0, 3] = x
    return T


def test_transforms_compose_interpolate_and_invert():
    tree = TransformTree()
    tree.set("map", "odom", 0, pose(10.0, np.pi / 2), static=True)
    tree.set("odom", "base", 0, pose(0.0))
    tree.set("odom", "base", 100, pose(2.0, 0.2))
    T = tree.lookup("map", "base", 50)
    np.testing.assert_allclose(T[:3, 3], [10, 1, 0], atol=1e-12)
    np.testing.assert_allclose(T[:3, :3], Rotation.from_euler("z", np.pi / 2 + 0.1).as_matrix())
    np.testing.assert_allclose(tree.lookup("base", "map", 50) @ T, np.eye(4), atol=1e-12)
    with pytest.raises(TransformError, match="known from 0 to 100"):
        tree.lookup("map", "base", 101)
    with pytest.raises(TransformError, match="frames: base, map, odom"):
        tree.lookup("map", "gripper", 0)


def test_transforms_are_forgotten_in_time_and_after_a_jump():
    tree = TransformTree(cache_ns=100)
    for t in range(0, 500, 10):
        tree.set("odom", "base", t, pose(float(t)))
    with pytest.raises(TransformError):
        tree.lookup("odom", "base", 300)
    tree.clear()
    tree.set("odom", "base", 5, pose(5.0))
    assert tree.lookup("odom", "base", 5)[0, 3] == 5


@given(st.integers(1, 40), st.integers(1, 200))
def test_overload_thins_evenly_counts_and_keeps_order(limit, count):
    counters = FrameCounters()
    queue = FrameQueue(limit, counters)
    for i in range(count):
        queue.put(Frame(i, i, IMAGE))
    kept = [queue.get(0.0).index for _ in range(len(queue))]
    assert len(kept) <= limit
    assert len(kept) + counters.dropped_overload == count
    assert kept == sorted(kept)
    assert kept[-1] == count - 1  # the newest is never dropped
    assert queue.get(0.0) is None


def test_the_oldest_images_go_where_that_is_asked_for():
    counters = FrameCounters()
    queue = FrameQueue(5, counters, "drop_oldest")
    for i in range(12):
        queue.put(Frame(i, i, IMAGE))
    assert [queue.get(0.0).index for _ in range(len(queue))] == [7, 8, 9, 10, 11]
    assert counters.dropped_overload == 7


def test_nothing_stands_still_where_the_robot_was_painted_over(rng):
    """A bumper with rivets before a scene: no corner is found on it."""
    scene = np.ones((240, 320), bool)
    scene[170:, 60:260] = False
    image = cv2.resize(rng.integers(0, 255, (60, 80, 3), np.uint8), (320, 240))
    robot = image.copy()
    robot[~scene] = 10
    robot[180:230:10, 80:240:10] = 255

    def corners_on_robot(picture: np.ndarray) -> int:
        uv = find_corners(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.zeros((0, 2)), 300)
        return int((~scene)[uv[:, 1].astype(int), uv[:, 0].astype(int)].sum())

    painted = painted_over(robot, scene)
    assert corners_on_robot(robot) > 40
    assert corners_on_robot(painted) <= 2
    deep = cv2.erode((~scene).astype(np.uint8), np.ones((25, 25), np.uint8)) > 0
    assert painted[deep].mean() == pytest.approx(image.mean(), abs=25)  # colours of the scene
    np.testing.assert_array_equal(painted[:150], image[:150])


def test_nodes_hide_no_attribute_of_rclpys_node():
    """A list of ours named `_timers` once took the place of rclpy's, and half the timers slept."""
    import ast
    import inspect

    import rclpy
    from rclpy.context import Context
    from rclpy.lifecycle import LifecycleNode

    from scal3r_ros.ros import image_publisher, map_node, mapping_node, odometry_node, recorder

    context = Context()
    rclpy.init(context=context)
    taken = set(vars(LifecycleNode("plain", context=context)))
    rclpy.shutdown(context=context)
    for module in (image_publisher, map_node, mapping_node, odometry_node, recorder):
        written = {
            target.attr
            for node in ast.walk(ast.parse(inspect.getsource(module)))
            if isinstance(node, (ast.Assign, ast.AnnAssign))
            for target in ast.walk(node)
            if isinstance(target, ast.Attribute) and isinstance(target.ctx, ast.Store)
        }
        assert not written & taken, module.__name__


def test_heights_lie_in_grid_maps_order():
    """Cell (0, 0) is at the largest x and y, rows run along x."""
    pytest.importorskip("grid_map_msgs.msg", reason="grid_map_msgs is not built")
    heights = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, np.nan]], np.float32)  # y by x, from low
    message = elevation_message(HeightField(heights, (10.0, 20.0), 0.5), Header(frame_id="map"))
    cells = np.array(message.data[0].data).reshape((3, 2), order="F")
    np.testing.assert_array_equal(cells, [[np.nan, 3.0], [5.0, 2.0], [4.0, 1.0]])
    info = message.info
    assert (info.length_x, info.length_y) == (1.5, 1.0)
    assert (info.pose.position.x, info.pose.position.y) == (10.75, 20.5)


def chunk_message(index: int, x: float, stamp_ns: int) -> Chunk:
    """One keyframe and one point at the chunk's origin, which lies at (x, 0, 0)."""
    cloud = Cloud(np.zeros((1, 3), np.float32), np.zeros((1, 3), np.uint8), np.ones(1, np.float32))
    place = Sim3(np.eye(3), np.array([x, 0.0, 0.0]), 1.0)
    return Chunk(
        chunk_id=index,
        stamps=[ns_to_stamp(stamp_ns)],
        poses=[x, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0],
        sim3=sim3_to_list(place),
        points=cloud_to_message(cloud, Header()),
    )


def test_corrections_may_overtake_chunks_and_a_mapper_may_begin_anew():
    found = ChunkMap()
    found.add_chunk(chunk_message(0, 0.0, 1))
    places = [Sim3(np.eye(3), np.array([x, 0.0, 0.0]), 1.0) for x in (5.0, 6.0)]
    flat = [v for place in places for v in sim3_to_list(place)]
    assert found.correct(Corrections(chunk_ids=[0, 1], sim3=flat))
    assert found.missing == {1}
    found.add_chunk(chunk_message(1, 1.0, 2))  # published before what corrected it
    assert not found.missing
    np.testing.assert_allclose(found.cloud().xyz[:, 0], [5.0, 6.0])
    np.testing.assert_allclose([T[0, 3] for T in found.keyframe_poses().values()], [5.0, 6.0])
    found.add_chunk(chunk_message(0, 2.0, 100))  # same session and number, other images
    np.testing.assert_allclose(found.cloud().xyz[:, 0], [2.0])


def test_every_point_of_a_depth_image_projects_back_to_its_pixel_and_has_its_colour():
    rng = np.random.default_rng(2)
    image = rng.integers(0, 255, (48, 64, 3), np.uint8)
    K = np.array([[50.0, 0, 30.0], [0, 40.0, 25.0], [0, 0, 1]])
    depth = rng.uniform(1, 3, (24, 32)).astype(np.float32)
    depth[4] = 0
    T_map_cam = np.eye(4)
    T_map_cam[:3] = random_sim3(rng).R @ np.eye(3, 4)
    T_map_cam[:3, 3] = 1.0, -2.0, 0.5
    cloud = every_point(Frame(0, 0, image, K), depth, T_map_cam)
    rows, columns = (n.ravel() for n in np.mgrid[0:24:2, 0:32:2])
    rows, columns = rows[rows != 4], columns[rows != 4]
    xyz = (cloud.xyz - T_map_cam[:3, 3]) @ T_map_cam[:3, :3]
    np.testing.assert_allclose(xyz[:, 2], depth[rows, columns], rtol=1e-5)
    uv = project(xyz.astype(np.float64), K) / 2  # the depth image has half the size
    np.testing.assert_allclose(uv, np.stack([columns, rows], 1) + 0.5, atol=1e-3)
    quarter = image.reshape(24, 2, 32, 2, 3).mean(axis=(1, 3))[rows, columns]
    assert np.abs(cloud.rgb - quarter).max() <= 1
