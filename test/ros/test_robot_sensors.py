"""Odometry and depth of the robot, over DDS: metres, and map -> odom."""

import time

import numpy as np
import pytest
from nav_msgs.msg import Odometry
from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from scal3r_ros.geometry.sim3 import invert_pose
from scal3r_ros.ros.conversions import (
    matrix_to_pose,
    matrix_to_transform,
    ns_to_stamp,
    rgb_to_image,
    to_ros_bytes,
)
from scal3r_ros.ros.fallback.tf import DYNAMIC, transform_broadcaster
from scal3r_ros.ros.interfaces import (
    Chunk,
    Status,
)
from test.ros.conftest import FAKE, FAST, START_NS
from test.ros.test_nodes import latest

pytestmark = [pytest.mark.ros, pytest.mark.slow]
STEP_NS = 100_000_000


@pytest.mark.parametrize("source", ["tf", "topic"])
def test_the_robots_own_odometry(nodes, node, camera, office, source):
    """map -> odom from odometry with other stamps; metric, for the robot moves 3 m per unit. A
    message says itself whose place it tells, here of a base with axes of its own."""
    status, chunks = latest(node, Status, "status"), latest(node, Chunk, "chunk", 50)
    transforms = latest(node, TFMessage, "/tf", DYNAMIC)
    broadcaster = transform_broadcaster(node)
    publisher = node.create_publisher(Odometry, "odom", 10)
    T_base_cam = np.eye(4)
    T_base_cam[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    if source == "topic":
        node.mount(matrix_to_transform(T_base_cam, 0, "base_link", "camera_optical_frame"))
    base = {"base_frame": "camera_optical_frame"} if source == "tf" else {}
    nodes.start(
        "mapping_node", FAKE, odom_source=source, scale_source="odometry", scale_lock_after=2,
        scale_min_baseline=0.1, keyframe_min_flow=0.0, image_queue_depth=60, **base, **FAST,
    )  # fmt: skip
    camera.wait_for(1)
    for index in range(-45, 40):  # it runs before the images, longer than a lost message takes
        for part in range(2):
            stamp_ns = START_NS + index * STEP_NS + (50_000_000 * part - 20_000_000)
            T = np.eye(4)
            T[0, 3] = 3.0 * 0.02 * (stamp_ns - START_NS) / STEP_NS  # the fake camera's path
            if source == "tf":
                names = "odom", "camera_optical_frame"
                broadcaster.sendTransform(matrix_to_transform(T, stamp_ns, *names))
            else:
                message = Odometry(child_frame_id="base_link")
                message.header.stamp = ns_to_stamp(stamp_ns)
                message.pose.pose = matrix_to_pose(T_base_cam @ T @ invert_pose(T_base_cam))
                publisher.publish(message)
        if index >= 0:
            image = rgb_to_image(office[index].image, Header())
            camera.send(image, START_NS + index * STEP_NS - 10_000_000)
        else:
            pause = time.monotonic() + 0.1
            node.until(lambda end=pause: time.monotonic() > end, 5, "the pause")
    node.until(lambda: status[-1].metric, 60, f"metric: {nodes.said('mapping_node')[-500:]}")
    assert chunks

    def apart() -> float:
        shifts = [
            t.transform.translation for m in transforms for t in m.transforms
            if (t.header.frame_id, t.child_frame_id) == ("map", "odom")
        ]  # fmt: skip
        return np.linalg.norm([shifts[-1].x, shifts[-1].y, shifts[-1].z]) if shifts else np.inf

    # in metres map and odom agree but for where they begin; in units they would part
    node.until(lambda: apart() < 0.4, 20, "map and odom agree")


def test_a_depth_sensor_makes_the_map_metric(nodes, node, camera, office):
    status = latest(node, Status, "status")
    depth = node.create_publisher(Image, "sensor_depth/image", 10)
    nodes.start(
        "mapping_node",
        FAKE,
        scale_source="depth",
        scale_lock_after=2,
        keyframe_min_flow=0.0,
        image_queue_depth=60,
        **FAST,
    )
    camera.wait_for(1)
    listeners = node.get_subscriptions_info_by_topic("/sensor_depth/image")
    kinds = [listener.qos_profile.reliability for listener in listeners]
    assert kinds == [ReliabilityPolicy.RELIABLE]  # best effort loses many of this size
    wall = np.full((480, 720), 7000, np.uint16)  # mm; the network says 2 units
    for index in range(40):
        stamp_ns = START_NS + index * STEP_NS
        message = Image(height=480, width=720, encoding="16UC1", step=1440)
        message.header.stamp = ns_to_stamp(stamp_ns + 4_000_000)
        message.data = to_ros_bytes(wall)
        depth.publish(message)
        camera.send(rgb_to_image(office[index].image, Header()), stamp_ns)
    node.until(lambda: status[-1].metric, 60, "metric")
    assert abs(status[-1].scale / 3.5 - 1) < 0.02
