"""Against the packages that ROS users have and PyPI has not: where one is installed, ours and it
must say the same."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from scal3r_ros.mapping.point_map import Cloud
from scal3r_ros.ros.conversions import (
    cloud_to_message,
    image_to_rgb,
    matrix_to_pose,
    matrix_to_transform,
    to_ros_bytes,
    transform_to_matrix,
)
from scal3r_ros.ros.fallback.filters import approximate_synchronizer, simple_filter
from scal3r_ros.ros.fallback.tf import TransformTree
from scal3r_ros.ros.interfaces import Status
from scal3r_ros.ros.sensors import StampedFrame
from test.ros.conftest import FAKE, FAST, START_NS
from test.ros.test_nodes import latest

pytestmark = pytest.mark.ros


def transforms(seed: int, count: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    T = np.tile(np.eye(4), (count, 1, 1))
    T[:, :3, :3] = Rotation.random(count, random_state=seed).as_matrix()
    T[:, :3, 3] = rng.normal(0, 3, (count, 3))
    return T


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), share=st.floats(0, 1))
def test_our_tree_looks_up_what_tf2_looks_up(seed, share):
    tf2_ros = pytest.importorskip("tf2_ros", reason="tf2_ros is not installed")
    from rclpy.time import Time

    buffer, tree = tf2_ros.Buffer(), TransformTree()
    links = [("map", "odom"), ("odom", "base"), ("base", "camera"), ("base", "lidar")]
    for link, (parent, child) in enumerate(links):
        static = parent == "base"
        for k, T in enumerate(transforms(10 * seed + link, 3)):
            stamp_ns = START_NS + k * 10**9
            message = matrix_to_transform(T, stamp_ns, parent, child)
            (buffer.set_transform_static if static else buffer.set_transform)(message, "test")
            tree.set(parent, child, stamp_ns, T, static=static)
    at_ns = START_NS + int(share * 2e9)
    for target, source in (("map", "camera"), ("lidar", "camera"), ("camera", "odom")):
        theirs = buffer.lookup_transform(target, source, Time(nanoseconds=at_ns))
        ours = tree.lookup(target, source, at_ns)
        np.testing.assert_allclose(transform_to_matrix(theirs.transform), ours, atol=1e-6)


@pytest.mark.slow
def test_a_tf2_listener_follows_the_camera(nodes, node, camera, office):
    tf2_ros = pytest.importorskip("tf2_ros", reason="tf2_ros is not installed")
    from nav_msgs.msg import Odometry
    from rclpy.time import Time

    buffer = tf2_ros.Buffer()
    listener = tf2_ros.TransformListener(buffer, node)
    odometry, status = latest(node, Odometry, "odometry", 50), latest(node, Status, "status")
    nodes.start("odometry_node")
    nodes.start("mapping_node", FAKE, **FAST)
    camera.wait_for(2)
    start_ns = node.get_clock().now().nanoseconds  # tf2 wants one clock
    camera.play_until(lambda: len(odometry) > 5, office, start_ns, "odometry")
    newest = odometry[-1]
    found = buffer.lookup_transform(
        "odom", newest.child_frame_id, Time.from_msg(newest.header.stamp)
    )
    p, t = newest.pose.pose.position, found.transform.translation
    np.testing.assert_allclose([t.x, t.y, t.z], [p.x, p.y, p.z], atol=1e-9)
    assert buffer.can_transform("map", newest.child_frame_id, Time())
    assert status[-1].state == Status.TRACKING
    assert nodes.stop() == {"odometry_node": 0, "mapping_node": 0}
    listener.unregister()


def test_sensor_msgs_py_reads_our_clouds(rng):
    point_cloud2 = pytest.importorskip(
        "sensor_msgs_py.point_cloud2", reason="sensor_msgs_py is not installed"
    )
    cloud = Cloud(
        rng.normal(0, 2, (50, 3)).astype(np.float32),
        rng.integers(0, 256, (50, 3)).astype(np.uint8),
        rng.uniform(1, 9, 50).astype(np.float32),
    )
    points = point_cloud2.read_points(cloud_to_message(cloud, Header(frame_id="map")))
    np.testing.assert_array_equal(np.stack([points[n] for n in "xyz"], 1), cloud.xyz)
    np.testing.assert_array_equal(points["confidence"], cloud.confidence)
    rgb = points["rgb"].copy().view(np.uint32)  # as RViz unpacks it
    np.testing.assert_array_equal((rgb >> 16) & 255, cloud.rgb[:, 0])
    np.testing.assert_array_equal(rgb & 255, cloud.rgb[:, 2])


def test_message_filters_is_used_and_pairs_what_is_near():
    message_filters = pytest.importorskip(
        "message_filters", reason="message_filters is not installed"
    )
    a, b = simple_filter(), simple_filter()
    assert isinstance(a, message_filters.SimpleFilter)
    pairs = []
    matched = approximate_synchronizer([a, b], 10, 0.02)
    assert isinstance(matched, message_filters.ApproximateTimeSynchronizer)
    matched.registerCallback(lambda x, y: pairs.append((x, y)))
    for k in range(5):
        a.signalMessage(StampedFrame(START_NS + k * 10**8))
        b.signalMessage(StampedFrame(START_NS + k * 10**8 + 5_000_000))
    assert len(pairs) == 5


def test_diagnostic_updater_is_used(node):
    diagnostic_updater = pytest.importorskip(
        "diagnostic_updater", reason="diagnostic_updater is not installed"
    )
    from scal3r_ros.ros.fallback.diagnostics import diagnostic_updater as ours

    assert isinstance(ours(node), diagnostic_updater.Updater)


def test_the_period_of_diagnostics_is_a_parameter_with_and_without_the_package(node):
    from rclpy.node import Node
    from rclpy.parameter import Parameter

    from scal3r_ros.ros.fallback.diagnostics import FallbackUpdater, diagnostic_updater

    for number, make in enumerate((FallbackUpdater, diagnostic_updater)):
        wanted = Parameter("diagnostic_updater.period", value=0.25)
        other = Node(f"updater_{number}", context=node.context, parameter_overrides=[wanted])
        make(other)
        assert [timer.timer_period_ns for timer in other.timers] == [250_000_000]
        other.destroy_node()


def test_tf_transformations_has_our_convention_of_quaternions():
    tf_transformations = pytest.importorskip(
        "tf_transformations", reason="tf_transformations is not installed"
    )
    for T in transforms(3, 5):
        o = matrix_to_pose(T).orientation
        theirs = tf_transformations.quaternion_matrix([o.x, o.y, o.z, o.w])
        np.testing.assert_allclose(theirs[:3, :3], T[:3, :3], atol=1e-9)


def test_cv_bridge_decodes_what_we_do_not(rng):
    pytest.importorskip("cv_bridge.boost.cv_bridge_boost", reason="cv_bridge is not installed")
    pixels = rng.integers(0, 2**16, (4, 6, 3)).astype(np.uint16)
    message = Image(height=4, width=6, step=36, encoding="rgb16", data=to_ros_bytes(pixels))
    np.testing.assert_allclose(image_to_rgb(message), pixels / 257, atol=1.0)


@pytest.mark.parametrize(
    "encoding",
    [
        "rgb8", "bgr8", "rgba8", "bgra8", "mono8", "mono16", "yuv422", "yuv422_yuy2",
        "bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8",
    ],
)  # fmt: skip
def test_our_decoder_and_cv_bridge_see_the_same(rng, encoding):
    cv_bridge = pytest.importorskip("cv_bridge", reason="cv_bridge is not installed")
    pytest.importorskip("cv_bridge.boost.cv_bridge_boost", reason="cv_bridge is not installed")
    depth = np.uint16 if encoding == "mono16" else np.uint8
    channels = {"rgb": 3, "bgr": 3, "yuv": 2}.get(encoding[:3], 1) + encoding.endswith("a8")
    pixels = rng.integers(0, np.iinfo(depth).max + 1, (24, 32, channels)).astype(depth)
    message = Image(
        height=24,
        width=32,
        step=32 * channels * pixels.itemsize,
        encoding=encoding,
        data=to_ros_bytes(pixels),
    )
    theirs = cv_bridge.CvBridge().imgmsg_to_cv2(message, desired_encoding="rgb8")
    np.testing.assert_allclose(image_to_rgb(message).astype(int), theirs.astype(int), atol=1)
