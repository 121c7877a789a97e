"""Nodes one by one: failures that are said, services, a robot's base frame, odometry alone."""

import subprocess
import sys
import time
from xml.etree import ElementTree

import numpy as np
import pytest
from geometry_msgs.msg import PoseWithCovarianceStamped, TransformStamped
from nav_msgs.msg import OccupancyGrid, Odometry
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import PointCloud2
from std_srvs.srv import Trigger
from tf2_msgs.msg import TFMessage

from scal3r_ros.ros.conversions import pose_to_matrix, transform_to_matrix
from scal3r_ros.ros.documents import TOPICS
from scal3r_ros.ros.fallback.tf import DYNAMIC
from scal3r_ros.ros.interfaces import Chunk, SaveMap, Status
from scal3r_ros.ros.launch_arguments import SENSORS, sensor_topics
from test.conftest import OFFICE, ROOT

pytestmark = [pytest.mark.ros, pytest.mark.slow]
LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)


def call(node, kind, name: str, request):
    client = node.create_client(kind, name)
    node.until(client.service_is_ready, 30, f"{name} ready")
    future = client.call_async(request)
    node.until(future.done, 60, f"{name} answered")
    return future.result()


def latest(node, kind, topic: str, qos=LATCHED) -> list:
    """A list that fills with what arrives."""
    received: list = []
    node.create_subscription(kind, topic, received.append, qos)
    return received


@pytest.mark.parametrize("name", ["none.safetensors", "torn.safetensors", "other.pt"])
def test_a_missing_or_damaged_checkpoint_is_said_and_the_node_stays(nodes, node, tmp_path, name):
    (tmp_path / "torn.safetensors").write_bytes(b"\x40\0\0\0\0\0\0\0{torn")
    (tmp_path / "other.pt").write_bytes(b"no archive at all")
    status = latest(node, Status, "status")
    nodes.start("mapping_node", checkpoint=tmp_path / name)
    node.until(lambda: "could not start" in nodes.said("mapping_node"), 60, "the error")
    assert name in nodes.said("mapping_node")
    assert "Traceback" not in nodes.said("mapping_node")
    assert nodes.running["mapping_node"].poll() is None
    assert not status  # nothing is published by a node that is not active
    assert nodes.stop() == {"mapping_node": 0}


def test_no_images_is_said_with_the_topic(nodes, node):
    nodes.start("mapping_node", watchdog_period=1.0)
    node.until(
        lambda: "no images yet on /image: 0 publishers" in nodes.said("mapping_node"), 60, "it"
    )
    assert nodes.stop() == {"mapping_node": 0}


def test_three_nodes_on_a_robot(nodes, node, tmp_path):
    """base_frame from /tf_static, clouds and odometry, save_map, reset: one run."""
    turned = TransformStamped()
    turned.header.frame_id, turned.child_frame_id = "base_link", "camera_optical_frame"
    turned.transform.translation.z = 0.4
    turned.transform.rotation.x, turned.transform.rotation.y = -0.5, 0.5
    turned.transform.rotation.z, turned.transform.rotation.w = -0.5, 0.5
    node.mount(turned)
    status = latest(node, Status, "status")
    chunks = latest(node, Chunk, "chunk", 20)
    odometry = latest(node, Odometry, "odometry", 50)
    shared = {"base_frame": "base_link", "use_sim_time": True, "image_queue_depth": 60}
    nodes.start("map_node", map_folder=tmp_path)
    nodes.start("odometry_node", **shared)
    nodes.start("mapping_node", max_chunk_wait=2.0, **shared)
    node.until(lambda: status and status[-1].state == Status.WAITING, 90, "mapping_node up")
    nodes.start(
        "image_publisher",
        sequence=OFFICE,
        rate=0.0,
        max_images=40,
        max_pending=6,
        wait_for_subscribers=2,
        publish_clock=True,
    )
    node.until(lambda: len(chunks) >= 3, 120, "three chunks")
    node.until(lambda: len(odometry) >= 5, 60, "odometry")
    assert {m.child_frame_id for m in odometry} == {"base_link"}
    first = chunks[0].poses[3:7]  # z up: the robot's axes, so the camera is as on the robot
    assert first == pytest.approx([-0.5, 0.5, -0.5, 0.5], abs=0.1)

    saved = call(node, SaveMap, "map_node/save_map", SaveMap.Request(path="m.ply"))
    assert saved.success, saved.message
    assert saved.points > 5000
    again = call(node, SaveMap, "map_node/save_map", SaveMap.Request(path="m.ply"))
    assert not again.success
    assert "overwrite" in again.message
    outside = call(node, SaveMap, "map_node/save_map", SaveMap.Request(path="../m.ply"))
    assert not outside.success

    session = status[-1].map_session
    assert call(node, Trigger, "mapping_node/reset", Trigger.Request()).success
    node.until(lambda: status[-1].map_session == session + 1, 60, "a new session")
    assert status[-1].chunks == 0
    clouds, grids = latest(node, PointCloud2, "map_cloud"), latest(node, OccupancyGrid, "map")
    node.until(lambda: clouds and clouds[-1].width == 0, 30, "map_node lets go of the old map")
    node.until(lambda: grids and list(grids[-1].data) == [-1], 30, "and of its grid")
    assert not call(node, SaveMap, "map_node/save_map", SaveMap.Request(path="n.ply")).success
    nodes.running.pop("image_publisher").wait(timeout=30)
    assert nodes.stop() == {"map_node": 0, "odometry_node": 0, "mapping_node": 0}


def test_without_a_tracker_the_mapper_gives_odometry_of_every_keyframe(nodes, node):
    status = latest(node, Status, "status")
    odometry = latest(node, Odometry, "odometry", 100)
    poses = latest(node, PoseWithCovarianceStamped, "pose", 5)
    transforms = latest(node, TFMessage, "/tf", DYNAMIC)
    nodes.start("mapping_node", odom_source="none", max_chunk_wait=1.0, image_queue_depth=60)
    node.until(lambda: status and status[-1].state == Status.WAITING, 90, "mapping_node up")
    nodes.start("image_publisher", sequence=OFFICE, rate=0.0, max_images=24, max_pending=12)
    node.until(lambda: status[-1].chunks >= 2 and not status[-1].pending_frames, 90, "chunks")
    node.until(lambda: len(odometry) >= status[-1].frames_used, 20, "odometry")
    stamps = [m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for m in odometry]
    assert stamps == sorted(set(stamps))
    assert np.isfinite([m.pose.pose.position.x for m in odometry]).all()
    node.until(lambda: poses and poses[-1].header.stamp == odometry[-1].header.stamp, 20, "pose")
    del transforms[:]
    node.until(lambda: corrections(transforms), 20, "map -> odom")
    T_map_odom = transform_to_matrix(corrections(transforms)[-1].transform)
    T_odom_cam, T_map_cam = (pose_to_matrix(m[-1].pose.pose) for m in (odometry, poses))
    np.testing.assert_allclose(T_map_odom @ T_odom_cam, T_map_cam, atol=1e-6)


def corrections(messages: list) -> list:
    return [t for m in messages for t in m.transforms if t.child_frame_id == "odom"]


def test_a_command_waits_until_the_mapper_is_there(nodes, node, tmp_path):
    command = [sys.executable, "-m", "scal3r_ros.ros.when_ready", "touch", str(tmp_path / "played")]
    waiting = subprocess.Popen(
        [*command, "--ros-args", "-r", "__node:=waiter"], env=nodes.environment
    )
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(timeout=5)
        nodes.start("mapping_node")
        assert waiting.wait(timeout=60) == 0
    finally:
        waiting.kill()
    assert (tmp_path / "played").exists()


EVERYWHERE = {"rosout", "parameter_events", "clock"}  # of every node
REMAPPED = {"image": "camera/image_raw", "camera_info": "camera/camera_info"}
SENSOR_TOPICS = sensor_topics(*SENSORS.values())  # role -> mapping.launch.py's default


def test_what_nodes_do_is_documented_and_allowed_by_the_policy(nodes, node):
    """Every topic and service of a running node is in docs/interface.md's table and in the SROS 2
    policy, and the policy allows no topic that the table does not have."""
    profiles = ElementTree.parse(ROOT / "config" / "sros2_policy.xml").getroot().iter("profile")
    policy = {p.get("node"): p for p in profiles}
    nodes.start("odometry_node", use_imu=True)
    nodes.start("mapping_node", map_orientation="imu", scale_source="stereo", mask_topic="mask")
    nodes.start("map_node")

    def is_up(name: str) -> bool:
        return name in node.get_node_names() and bool(published(name, "sub"))

    def published(name: str, way: str) -> set[str]:
        ask = "get_publisher_names_and_types_by_node"
        ask = ask if way == "pub" else "get_subscriber_names_and_types_by_node"
        found = {topic.removeprefix("/") for topic, _ in getattr(node, ask)(name, "/")}
        return {t for t in found if not t.endswith("transition_event")}

    for name, topics in TOPICS.items():
        node.until(lambda n=name: is_up(n), 60, f"{name} is there")
        active = "odometry_status" if name == "odometry_node" else "status"
        node.until(
            lambda n=name, a=active: n == "map_node" or a in published(n, "pub"), 60, "active"
        )
        time.sleep(1.0)  # discovery of the last ones
        for way, verb in (("pub", "publish"), ("sub", "subscribe")):
            table = {
                part.strip().removeprefix("/")
                for kind, names, *_ in topics
                if kind == way
                for part in names.split(",")
            } | {"mask"}
            done = published(name, way) - EVERYWHERE
            assert done <= table | {"tf"}, f"{name} {verb}: {done - table} is not documented"
            lists = [e for e in policy[name].iter("topics") if verb in e.attrib]
            allowed = {t.text for e in lists for t in e.iter("topic")}
            launched = {SENSOR_TOPICS[t].removeprefix("/") for t in table & set(SENSOR_TOPICS)}
            wanted = {REMAPPED.get(t, t) for t in done} | launched
            assert wanted <= allowed, f"{name} {verb}: {wanted - allowed} is not allowed"
            spare = allowed - {REMAPPED.get(t, t) for t in table} - launched - EVERYWHERE
            spare -= {"camera/image_raw/compressed", f"{name}/transition_event", "tf", "tf_static"}
            assert not spare, f"{name} {verb}: {spare} is allowed and not documented"
        offered = {
            s.removeprefix(f"/{name}/")
            for s, _ in node.get_service_names_and_types_by_node(name, "/")
        }
        services = {s.text.removeprefix("~/") for s in policy[name].iter("service")}
        assert offered <= services, f"{name}: {offered - services} is not allowed"
    assert "odometry" not in published("mapping_node", "pub")  # that is the tracker's
    assert nodes.stop() == dict.fromkeys(TOPICS, 0)
