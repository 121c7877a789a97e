"""What a user may set about images: masks, clocks that step back, reliability; over DDS."""

import numpy as np
import pytest
from geometry_msgs.msg import PoseArray, TransformStamped
from nav_msgs.msg import Odometry
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, Imu, PointCloud2
from std_msgs.msg import Header
from std_srvs.srv import Trigger
from tf2_msgs.msg import TFMessage

from scal3r_ros.data.encodings import decode_compressed
from scal3r_ros.geometry.sim3 import invert_pose
from scal3r_ros.ros.conversions import (
    image_to_float,
    ns_to_stamp,
    pose_to_matrix,
    rgb_to_image,
    stamp_to_ns,
)
from scal3r_ros.ros.fallback.tf import STATIC
from scal3r_ros.ros.imu import SENSOR
from scal3r_ros.ros.interfaces import Chunk, Status
from scal3r_ros.ros.map_publisher import CHUNKS, LATCHED
from test.ros.conftest import FAKE, FAST, START_NS, Camera
from test.ros.test_nodes import call, latest
from test.ros.test_services import set_parameter

pytestmark = [pytest.mark.ros, pytest.mark.slow]
STEP_NS = 100_000_000


def test_what_a_mask_hides_is_not_mapped(nodes, node, camera, office):
    depth = latest(node, Image, "depth/image", 10)
    mask = np.full((120, 160, 3), 255, np.uint8)
    mask[80:] = 0  # the robot's bumper
    sent = node.create_publisher(Image, "bumper", LATCHED)
    nodes.start("mapping_node", FAKE, mask_topic="bumper", **FAST)
    camera.wait_for(1)
    camera.play(office[:2], START_NS - 10**9, scale=0.5)
    wait = "no image is used before a mask comes on /bumper"
    node.until(lambda: wait in nodes.said("mapping_node"), 30, "it waits")
    sent.publish(rgb_to_image(mask, Header()))
    camera.play(office[:30], scale=0.5, pause_s=0.1)
    node.until(lambda: depth, 60, "depth")
    known = image_to_float(depth[-1]) > 0
    below = int(np.ceil(known.shape[0] * 2 / 3))
    assert not known[below:].any()
    assert known[: below - 2].mean() > 0.9
    assert nodes.stop() == {"mapping_node": 0}


def test_a_clock_that_steps_back_begins_a_new_piece_of_the_same_map(nodes, node, camera, office):
    status, chunks = latest(node, Status, "status"), latest(node, Chunk, "chunk", 20)
    nodes.start("mapping_node", FAKE, **FAST)
    camera.wait_for(1)
    camera.play_until(lambda: len(chunks) >= 2, office, START_NS, "chunks")
    node.until(lambda: not status[-1].pending_frames, 30, "all is mapped")
    count, session = len(chunks), chunks[-1].map_session
    camera.play_until(
        lambda: len(chunks) >= count + 2, office, START_NS - 3_600_000_000_000, "chunks after it"
    )
    assert "time went back by" in nodes.said("mapping_node")
    assert {c.map_session for c in chunks} == {session}
    assert 0 in [c.overlap for c in chunks[count:]]  # no chunk spans the step
    assert nodes.stop() == {"mapping_node": 0}


def test_a_reliability_that_does_not_fit_is_named_with_the_remedy(nodes, node, office):
    camera = Camera(node, reliable=False)
    nodes.start("mapping_node", FAKE, image_reliability="reliable", watchdog_period=1.0, **FAST)
    message = rgb_to_image(office[0].image, Header())

    def said() -> bool:
        message.header.stamp = ns_to_stamp(node.get_clock().now().nanoseconds)
        camera.images.publish(message)
        text = nodes.said("mapping_node")
        return "image_reliability:=reliable does not fit a best-effort publisher" in text

    node.until(said, 60, "the reason")
    assert nodes.stop() == {"mapping_node": 0}


def test_who_listens_late_still_gets_the_map(nodes, node, camera, office):
    status, chunks = latest(node, Status, "status"), latest(node, Chunk, "chunk", 20)
    nodes.start("map_node", map_publish_period=0.5)
    nodes.start("mapping_node", FAKE, **FAST)
    camera.wait_for(1)
    camera.play_until(lambda: len(chunks) >= 2, office, START_NS, "chunks")
    node.until(lambda: not status[-1].pending_frames, 30, "all is mapped")
    pause = node.get_clock().now().nanoseconds + 2_000_000_000
    node.until(lambda: node.get_clock().now().nanoseconds > pause, 10, "nothing is new any more")
    clouds = latest(node, PointCloud2, "map_cloud")
    keyframes = latest(node, PoseArray, "keyframes")
    node.until(lambda: clouds and keyframes, 30, "the map")
    poses = {stamp.nanosec + stamp.sec * 10**9 for c in chunks for stamp in c.stamps}
    assert clouds[-1].width > 0 and clouds[-1].header.frame_id == "map"
    assert len(keyframes[-1].poses) == len(poses)
    assert set_parameter(node, "map_voxel_size", 5.0, of="map_node").successful
    width = clouds[-1].width
    node.until(lambda: clouds[-1].width < width / 10, 10, "a coarser map at once")
    nodes.running["map_node"].kill()
    nodes.running.pop("map_node").wait(timeout=10)
    clouds.clear()
    nodes.start("map_node", map_publish_period=0.5)  # as a launch file that respawns it
    node.until(lambda: clouds and clouds[-1].width == width, 30, "the whole map again")
    assert nodes.stop() == {"map_node": 0, "mapping_node": 0}


def test_malformed_messages_are_dropped_and_said_and_end_nothing(nodes, node, camera, office):
    """A driver's odometry without orientation, a chunk of nonsense, corrections of wrong length."""
    sent = {
        "odom": (node.create_publisher(Odometry, "odom", 10), Odometry()),
        "chunk": (node.create_publisher(Chunk, "chunk", CHUNKS), Chunk(poses=[1.0] * 5)),
        "camera_info": (camera.infos, CameraInfo(width=4, height=4, k=[-1.0] * 9)),
        "distortion": (
            camera.infos,
            CameraInfo(distortion_model="plumb_bob", k=[1.0] * 9, d=[np.nan]),
        ),
        "image": (camera.images, Image(height=1, width=5, encoding="yuyv", data=b"x" * 10)),
        "tf_static": (node.create_publisher(TFMessage, "/tf_static", STATIC), TFMessage()),
    }
    sent["image"][1].header.stamp = ns_to_stamp(1)
    sent["tf_static"][1].transforms.append(TransformStamped(child_frame_id="camera"))
    sent["tf_static"][1].transforms[0].transform.rotation.w = 0.0
    sent["odom"][1].pose.pose.orientation.w = 0.0
    nodes.start("map_node")
    nodes.start("mapping_node", FAKE, odom_source="topic", **FAST)
    camera.wait_for(1)
    wanted = {
        "map_node": ["/chunk is dropped"],
        "mapping_node": [
            "/odom is dropped",
            "camera_info holds no calibration",
            "/tf_static is dropped",
            "camera_info: at most 14 finite numbers of distortion",
            "5 x 1 as yuyv cannot be decoded",
        ],
    }

    def all_said() -> bool:
        for publisher, message in sent.values():
            publisher.publish(message)
        return all(text in nodes.said(name) for name, texts in wanted.items() for text in texts)

    node.until(all_said, 60, "what is wrong with each")
    chunks = latest(node, Chunk, "chunk", 20)
    camera.play_until(
        lambda: any(len(c.sim3) == 8 and c.points.width for c in chunks), office, START_NS, "a map"
    )
    assert nodes.stop() == {"map_node": 0, "mapping_node": 0}


def test_heights_and_a_picture_of_the_depth_for_who_wants_them(nodes, node, camera, office):
    grid_map = pytest.importorskip("grid_map_msgs.msg", reason="grid_map_msgs is not built")
    maps = latest(node, grid_map.GridMap, "elevation", LATCHED)
    pictures = latest(node, CompressedImage, "depth/preview/compressed", 5)
    nodes.start("map_node", map_publish_period=0.5)
    nodes.start("mapping_node", FAKE, **FAST)
    camera.wait_for(1)
    camera.play_until(lambda: maps and pictures, office, START_NS, "both")
    newest = maps[-1]
    rows, columns = (round(length / newest.info.resolution) for length in
                     (newest.info.length_x, newest.info.length_y))  # fmt: skip
    heights = np.array(newest.data[0].data).reshape((rows, columns), order="F")
    assert newest.layers == ["elevation"] and newest.header.frame_id == "map"
    assert [d.size for d in newest.data[0].layout.dim] == [columns, rows]
    # the fake's wall, 2 units ahead of the camera (x) and 1.7 high: its upper edge is up there
    x, _ = newest.info.pose.position.x, newest.info.pose.position.y
    assert abs(x - 2.0) < 0.2
    assert np.isfinite(heights).any()
    assert 0.3 < np.nanmax(heights) < 1.0
    picture = decode_compressed(pictures[-1].data)
    assert picture.shape == (168, 224, 3)
    assert call(node, Trigger, "mapping_node/reset", Trigger.Request()).success
    node.until(lambda: np.isnan(maps[-1].data[0].data).all(), 30, "nothing of the old map is left")


def test_a_gyroscope_is_listened_to_where_that_is_asked_for(nodes, node, camera, office):
    """Dark images, while the gyroscope says that the camera turns: odometry turns."""
    odometry = latest(node, Odometry, "odometry", 200)
    imu = node.create_publisher(Imu, "imu", SENSOR)
    nodes.start("odometry_node", use_imu=True)
    nodes.start("mapping_node", FAKE, **FAST)
    camera.wait_for(2)
    begin_ns = camera.play_until(lambda: odometry, office, START_NS, "odometry")

    def hold(image: np.ndarray, count: int, rate: float) -> None:
        """One image again and again, the gyroscope beside it."""
        nonlocal begin_ns
        message = Imu(header=Header(frame_id="camera_optical_frame"))
        message.angular_velocity.y = rate
        for _ in range(count):
            for sample in range(10):
                message.header.stamp = ns_to_stamp(begin_ns + 1 + sample * STEP_NS // 10)
                imu.publish(message)
            begin_ns += STEP_NS
            camera.send(rgb_to_image(image, Header()), begin_ns, pause_s=0.1)
        node.until(lambda: stamp_to_ns(odometry[-1].header.stamp) == begin_ns, 30, "all")

    hold(office[0].image, 10, 0.0)
    before = odometry[-1]
    hold(np.zeros_like(office[0].image), 10, 0.5)
    turned = invert_pose(pose_to_matrix(before.pose.pose)) @ pose_to_matrix(odometry[-1].pose.pose)
    angles = Rotation.from_matrix(turned[:3, :3]).as_rotvec()
    np.testing.assert_allclose(angles, [0, 0.5, 0], atol=0.05)  # rad, in a second
    count = len(odometry)
    camera.play(office[1:20], begin_ns + STEP_NS)  # without a word of the gyroscope
    node.until(lambda: len(odometry) >= count + 19, 30, "images do not depend on it")
    assert nodes.stop() == {"odometry_node": 0, "mapping_node": 0}
