"""Bags of other people's cameras, replayed: the same every time, and enough to rebuild the map."""

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")
pytest.importorskip("scal3r_ros.msg", reason="the messages are not built: make setup")

from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin

from scal3r_ros.data.sequence import SequenceError, open_sequence
from scal3r_ros.data.tum import read_trajectory
from scal3r_ros.evaluation.trajectory import evaluate
from scal3r_ros.mapping.map_folder import read_map
from scal3r_ros.ros.offline_node import ParameterError
from scal3r_ros.ros.rebuild import read_recording, trajectory, typestore
from scal3r_ros.ros.replay import ReplayOptions, replay
from test.conftest import OFFICE
from test.ros.bags import START_NS, BagOfACamera, image, odometry

pytestmark = [pytest.mark.ros, pytest.mark.slow]
QUICK = ("refinement:=false", "loop_closure:=false")


@pytest.fixture(scope="module")
def office():
    return list(open_sequence(OFFICE))


@pytest.fixture(scope="module")
def bag(office, tmp_path_factory):
    path = tmp_path_factory.mktemp("bags") / "office"
    with BagOfACamera(path, plugin=StoragePlugin.MCAP) as writer:
        writer.info(office[0], "/front/camera_info")
        writer.images(office[:40], "bgr8", "/front/image_raw", 100_000_000)
    return path


@pytest.fixture(scope="module")
def replayed(bag, tmp_path_factory):
    out = tmp_path_factory.mktemp("replay")
    return out, replay(ReplayOptions(bag, out / "a")), replay(ReplayOptions(bag, out / "b"))


def test_two_runs_are_the_same_and_nothing_is_dropped(replayed):
    out, first, second = replayed
    assert first == second
    assert (first["images"], first["dropped"]) == (40, 0)
    for name in ("trajectory.txt", "odometry.txt", "map.ply"):
        assert (out / "a" / name).read_bytes() == (out / "b" / name).read_bytes()


def test_the_output_bag_is_enough_to_rebuild_the_map(replayed):
    out, report, _ = replayed
    recording = read_recording(out / "a" / "bag")
    assert len(recording.map.cloud()) == report["points"]
    direct = read_trajectory(out / "a" / "trajectory.txt")
    rebuilt = trajectory(recording, sorted(direct))
    assert rebuilt.keys() == direct.keys()
    apart = [np.linalg.norm(rebuilt[s][:3, 3] - direct[s][:3, 3]) for s in direct]
    assert max(apart) < 0.01 * report["length"]
    assert read_map(out / "a" / "map").facts["submaps"] == report["chunks"]


def test_ros_users_find_the_usual_topics_with_the_images_own_stamps(replayed, office):
    out, _, _ = replayed
    with AnyReader([out / "a" / "bag"], default_typestore=typestore()) as reader:
        kinds = {c.topic: c.msgtype for c in reader.connections}
        stamps = [
            m.header.stamp.sec * 10**9 + m.header.stamp.nanosec
            for c, _, data in reader.messages()
            if c.topic == "/odometry"
            for m in [reader.deserialize(data, c.msgtype)]
        ]
    for topic in ("/odometry", "/tf", "/chunk", "/path", "/points", "/depth/image", "/pose"):
        assert topic in kinds
    assert kinds["/points"] == "sensor_msgs/msg/PointCloud2"
    assert set(stamps) <= {START_NS + f.index * 100_000_000 for f in office[:40]}


@pytest.mark.parametrize(
    ("encoding", "plugin"),
    [
        ("jpeg", StoragePlugin.SQLITE3),
        ("mono8", StoragePlugin.SQLITE3),
        ("bayer_rggb8", StoragePlugin.MCAP),
        ("rgb8", StoragePlugin.SQLITE3),
    ],
)
def test_any_usual_camera_without_camera_info(office, tmp_path, encoding, plugin):
    topic = "/usb_cam/image_raw/compressed" if encoding == "jpeg" else "/usb_cam/image_raw"
    with BagOfACamera(tmp_path / "bag", plugin=plugin) as writer:
        writer.images(office[:12], encoding, topic, 33_333_333)
    done = replay(ReplayOptions(tmp_path / "bag", tmp_path / "out", parameters=QUICK))
    assert (done["images"], done["dropped"]) == (12, 0)
    assert done["chunks"] >= 1 and done["points"] > 0


def test_wheel_odometry_makes_the_map_metric(office, tmp_path):
    """The odometry has other stamps than the images, and comes later in the bag."""
    truth = read_trajectory(OFFICE / "groundtruth.txt")
    with BagOfACamera(tmp_path / "bag") as writer:
        writer.info(office[0], "/camera/camera_info")
        for frame in office[:130]:
            stamp_ns = START_NS + frame.stamp_ns
            writer.write("/camera/image_raw", stamp_ns, image(frame.image, "rgb8", stamp_ns))
            if frame.stamp_ns in truth:
                said = odometry(stamp_ns + 3_000_000, truth[frame.stamp_ns])
                writer.write("/wheels", stamp_ns + 20_000_000, said)
    options = ReplayOptions(
        tmp_path / "bag",
        tmp_path / "out",
        remap=("odom:=/wheels",),
        parameters=("odom_source:=topic", "scale_source:=odometry", "loop_closure:=false"),
    )
    assert replay(options)["metric"]
    found = read_trajectory(tmp_path / "out" / "trajectory.txt")
    found = {stamp - START_NS: T for stamp, T in found.items()}
    errors = evaluate(truth, found)
    assert abs(errors.scale - 1) < 0.06  # metres, as the true path has them


def test_bad_input_is_said(bag, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ParameterError, match="there is no parameter chunk_sise"):
        replay(ReplayOptions(bag, out, parameters=("chunk_sise:=8",)))
    with pytest.raises(ParameterError, match=r"max_depth must be in \[0, 1000\]"):
        replay(ReplayOptions(bag, out / "b", parameters=("max_depth:=-1.0",)))
    with pytest.raises(SequenceError, match="has no topic /wheels"):
        replay(ReplayOptions(bag, out / "c", remap=("odom:=/wheels",)))
