"""What parts of a node make of the messages that they hear; an offline node hears them."""

from types import SimpleNamespace

import numpy as np
import pytest
from geometry_msgs.msg import TransformStamped
from nav_msgs.msg import Odometry
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Imu
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from scal3r_ros.mapping.config import ConfigError, MapperConfig
from scal3r_ros.mapping.mapper import Mapper
from scal3r_ros.mapping.point_map import Cloud
from scal3r_ros.mapping.types import Frame
from scal3r_ros.ros.conversions import (
    camera_to_info,
    float_to_image,
    matrix_to_pose,
    ns_to_stamp,
    rgb_to_image,
)
from scal3r_ros.ros.frame_queue import FrameCounters
from scal3r_ros.ros.frames import RobotFrame
from scal3r_ros.ros.listening import listen
from scal3r_ros.ros.map_odom import GuardedBroadcaster, MapToOdom
from scal3r_ros.ros.map_publisher import MapPublisher
from scal3r_ros.ros.odometry_source import OdometrySource
from scal3r_ros.ros.offline_node import OfflineNode
from scal3r_ros.ros.parameters import MAPPING
from scal3r_ros.ros.robot_link import RobotLink
from scal3r_ros.ros.sensors import ScaleSensors
from scal3r_ros.ros.services import inside
from scal3r_ros.ros.settings import make_mapper, mapper_config
from scal3r_ros.ros.subscriptions import ImageInput
from test.conftest import TruthPredictor
from test.ros.test_parts import pose


def test_a_told_place_waits_for_the_cameras_in_the_maps_unit(walk, tmp_path):
    """Told in a map that becomes five times as large before TF says where the camera is."""
    node = OfflineNode(MAPPING, {"base_frame": "base_link"}, tmp_path / "bag")
    mapper = Mapper(TruthPredictor(walk.clip), MapperConfig())
    robot = RobotFrame(node, "base_link")
    maps, broadcaster = MapPublisher(node, mapper, robot), GuardedBroadcaster(node, guard=False)
    link = RobotLink(node, mapper, robot, maps, broadcaster)
    frame = walk.frames[0]
    link.see(frame, "camera")
    place = np.eye(4)
    place[:3, 3] = 1.0, 2.0, 0.0
    link.begin_at(place)
    assert link.complete(frame, wait=True) is None and mapper.start is None
    mapper.rescale(5.0)
    mast = TransformStamped(header=Header(frame_id="base_link"), child_frame_id="camera")
    mast.transform.translation.z, mast.transform.rotation.w = 0.5, 1.0
    node.hear("/tf_static", serialize_message(TFMessage(transforms=[mast])))
    tracked = Odometry(header=Header(stamp=ns_to_stamp(frame.stamp_ns)))
    tracked.pose.pose = matrix_to_pose(pose(2.0))
    node.hear("/odometry", serialize_message(tracked))
    assert link.complete(frame, wait=True) is not None
    np.testing.assert_allclose(mapper.start[:3, 3], [5.0, 10.0, 0.5])
    np.testing.assert_allclose(link.map_odom.now()[:3, 3], [3.0, 10.0, 0.0])  # where odom is then
    node.close()


def test_an_imu_is_heard_after_a_reset_too(walk, tmp_path):
    node = OfflineNode(MAPPING, {"scale_source": "imu"}, tmp_path / "bag")
    mapper = Mapper(TruthPredictor(walk.clip), MapperConfig())
    sensors = ScaleSensors(node, RobotFrame(node, ""), mapper)
    sensors.imu.camera_frame = "camera"
    mapper.reset()
    message = Imu(header=Header(frame_id="camera", stamp=ns_to_stamp(10**9)))
    node.hear("/imu", serialize_message(message))
    assert mapper.metric.sources.imu.reaches(10**9)
    node.close()


def test_odometry_ends_at_a_frame_that_is_fixed_to_the_base(tmp_path):
    """odom -> base_footprint moves, base_footprint -> base_link does not."""
    node = OfflineNode(MAPPING, {"odom_source": "tf", "base_frame": "base_link"}, tmp_path / "bag")
    source = OdometrySource(node, "tf", "odom", RobotFrame(node, "base_link"))
    links = (
        ("/tf", "odom", "base_footprint", [1.0, 2.0, 0.0]),
        ("/tf_static", "base_footprint", "base_link", [0.0, 0.0, 0.3]),
    )
    for topic, parent, child, place in links:
        moved = TransformStamped(header=Header(frame_id=parent, stamp=ns_to_stamp(10**9)))
        moved.child_frame_id, t = child, moved.transform.translation
        t.x, t.y, t.z = place
        moved.transform.rotation.w = 1.0
        node.hear(topic, serialize_message(TFMessage(transforms=[moved])))
    found = source.T_odom_base(10**9, "camera")
    np.testing.assert_allclose(found[:3, 3], [1.0, 2.0, 0.3])
    source.clear()
    assert source.T_odom_base(10**9, "camera") is None
    node.close()


def test_odometry_of_another_frame_needs_the_cameras_place_on_it(walk, tmp_path, caplog):
    """Without base_frame the message says whose place it tells: never is it the camera's unsaid."""
    node = OfflineNode(MAPPING, {"odom_source": "topic"}, tmp_path / "bag")
    mapper, robot = Mapper(TruthPredictor(walk.clip), MapperConfig()), RobotFrame(node, "")
    maps, broadcaster = MapPublisher(node, mapper, robot), GuardedBroadcaster(node, guard=False)
    link, frame = RobotLink(node, mapper, robot, maps, broadcaster), walk.frames[0]
    link.see(frame, "camera")
    wheels = Odometry(header=Header(stamp=ns_to_stamp(frame.stamp_ns)))
    wheels.pose.pose = matrix_to_pose(pose(2.0))
    node.hear("/odom", serialize_message(wheels))
    assert "/odom is dropped: it has no child_frame_id: set base_frame" in caplog.text
    wheels.child_frame_id = "base_link"
    node.hear("/odom", serialize_message(wheels))
    assert link.complete(frame, wait=True) is None
    assert link.complete(frame, wait=False).T_odom_cam is None
    assert "needs the transform base_link -> camera on /tf_static: publish it" in caplog.text
    mast = TransformStamped(header=Header(frame_id="base_link"), child_frame_id="camera")
    mast.transform.translation.z, mast.transform.rotation.w = 0.5, 1.0
    node.hear("/tf_static", serialize_message(TFMessage(transforms=[mast])))
    found = link.complete(frame, wait=True).T_odom_cam
    np.testing.assert_allclose(found[:3, 3], [2.0, 0.0, 0.5])
    node.close()


def test_depth_that_came_for_a_later_image_is_not_waited_for(walk, tmp_path):
    node = OfflineNode(MAPPING, {"scale_source": "depth"}, tmp_path / "bag")
    mapper = Mapper(TruthPredictor(walk.clip), MapperConfig())
    sensors = ScaleSensors(node, RobotFrame(node, ""), mapper)
    frames = [Frame(k, k * 10**8, np.zeros((4, 6, 3), np.uint8)) for k in (1, 2, 3)]
    for frame in frames[:2]:
        sensors.see(frame, "camera")
    head = Header(frame_id="camera", stamp=ns_to_stamp(2 * 10**8))
    depth = float_to_image(np.ones((4, 6), np.float32), head)
    node.hear("/sensor_depth/image", serialize_message(depth))
    assert sensors.complete(frames[0], wait=True) is frames[0]  # its own was never sent
    assert sensors.complete(frames[1], wait=True).depth is not None
    assert sensors.complete(frames[2], wait=True) is None  # it may come
    assert not sensors.trouble
    for frame in frames * 10:
        assert sensors.complete(frame, wait=False) is frame
    assert "30 images in a row without" in sensors.trouble
    assert "/sensor_depth/image: 0 publishers" in sensors.trouble
    sensors.clear()
    mapper.metric.sources.imu.add(10**9, np.zeros(3), np.zeros(3))
    sensors.clear()  # time went back
    mapper.metric.sources.imu.add(10**8, np.zeros(3), np.zeros(3))
    assert mapper.metric.sources.imu.reaches(10**8)
    node.close()


def test_what_cannot_be_stored_is_said_and_ends_nothing(tmp_path, caplog):
    node = OfflineNode(MAPPING, {}, tmp_path / "bag")

    def full(_) -> None:
        raise OSError(28, "No space left on device")

    listen(node, Imu, "imu", full, 1)
    node.hear("/imu", serialize_message(Imu()))
    assert "a message on /imu is dropped: [Errno 28] No space left" in caplog.text
    node.close()


@pytest.mark.parametrize("odometry", ["tracker", "none"])
def test_metres_come_from_no_odometry_of_our_own(tmp_path, odometry):
    told = {"scale_source": "odometry", "odom_source": odometry}
    node = OfflineNode(MAPPING, told, tmp_path / "bag")
    with pytest.raises(ConfigError, match=f"needs odom_source topic or tf, got {odometry}"):
        mapper_config(node)
    node.close()


def test_points_are_published_as_far_and_as_sure_as_is_asked_for(tmp_path):
    told = {"min_depth": 1.0, "max_depth": 5.0, "min_confidence": 0.5}
    node = OfflineNode(MAPPING, told, tmp_path / "bag")
    xyz = np.array([[0, 0, 0.5], [0, 0, 2], [0, 4, 4], [0, 0, 3]])
    confidence = np.array([9, 9, 9, 1.5], np.float32)  # 1.5 is sure by a third
    cloud = Cloud(xyz.astype(np.float32), np.zeros((4, 3), np.uint8), confidence)
    assert MapPublisher._wanted(SimpleNamespace(node=node), xyz, cloud).tolist() == [1]
    node.close()


def test_a_correction_comes_in_gently(tmp_path, monkeypatch):
    node = OfflineNode(MAPPING, {"correction_blend_time": 2.0}, tmp_path / "bag")
    now_s = [100.0]
    monkeypatch.setattr("scal3r_ros.ros.map_odom.time", SimpleNamespace(monotonic=lambda: now_s[0]))
    moves, there = MapToOdom(node, GuardedBroadcaster(node)), np.eye(4)
    there[0, 3] = 4.0
    for T in (np.eye(4), there):
        moves.set(T)
    for now_s[0], x in ((100.0, 0.0), (100.5, 1.0), (102.0, 4.0), (109.0, 4.0)):
        assert moves.now()[0, 3] == pytest.approx(x)
    node.close()


def test_images_beyond_the_rate_are_passed_over(tmp_path):
    node, seen = OfflineNode(MAPPING, {"max_rate": 5.0}, tmp_path / "bag"), []
    images = ImageInput(node, lambda frame, _: seen.append(frame.stamp_ns), FrameCounters())
    for tenth in range(1, 8):
        head = Header(frame_id="camera", stamp=ns_to_stamp(tenth * 10**8))
        node.hear("/image", serialize_message(rgb_to_image(np.zeros((4, 6, 3), np.uint8), head)))
    assert seen == [k * 10**8 for k in (1, 3, 5, 7)]
    images.close()
    node.close()


def test_calibration_of_another_size_takes_the_place_of_none(tmp_path):
    node, seen = OfflineNode(MAPPING, {}, tmp_path / "bag"), []
    images = ImageInput(node, lambda frame, _: seen.append(frame.K), FrameCounters())

    def info(f: float, width: int, height: int) -> None:
        K = np.array([[f, 0, width / 2], [0, f, height / 2], [0, 0, 1]])
        node.hear("/camera_info", serialize_message(camera_to_info(K, height, width, Header())))

    def image(width: int, height: int) -> None:
        head = Header(frame_id="camera", stamp=ns_to_stamp((len(seen) + 1) * 10**8))
        picture = rgb_to_image(np.zeros((height, width, 3), np.uint8), head)
        node.hear("/image", serialize_message(picture))

    info(300.0, 6, 4)
    info(600.0, 12, 8)
    for width, height in ((6, 4), (12, 8), (6, 4)):
        image(width, height)
    info(310.0, 6, 4)
    image(6, 4)
    assert [K[0, 0] for K in seen] == [300.0, 600.0, 300.0, 310.0]
    image(24, 16)
    assert images.counters.dropped_invalid == 1
    images.close()
    node.close()


def test_a_home_folder_may_be_written_short(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert inside("~/maps", "office") == tmp_path / "maps" / "office"
    node = OfflineNode(MAPPING, {"storage_folder": "~/clouds"}, tmp_path / "bag")
    assert mapper_config(node).storage.folder == str(tmp_path / "clouds")
    node.close()
    node = OfflineNode(MAPPING, {"checkpoint": "~/none.safetensors"}, tmp_path / "bag2")
    with pytest.raises((ValueError, OSError), match=str(tmp_path / "none.safetensors")):
        make_mapper(node)
    node.close()
