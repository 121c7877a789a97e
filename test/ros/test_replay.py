"""Bags of other people's cameras, replayed: the same every time, and enough to rebuild the map."""

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")
pytest.importorskip("scal3r_ros.msg", reason="the messages are not built: make setup")

from rosbags.highlevel import AnyReader
from rosbags.interfaces import QosDurability
from rosbags.rosbag2 import StoragePlugin

from scal3r_ros.data.sequence import SequenceError, open_sequence
from scal3r_ros.data.tum import read_trajectory
from scal3r_ros.evaluation.trajectory import evaluate
from scal3r_ros.geometry.sim3 import invert_pose
from scal3r_ros.mapping.map_folder import read_map
from scal3r_ros.ros.offline_node import ParameterError
from scal3r_ros.ros.rebuild import read_recording, trajectory, typestore
from scal3r_ros.ros.replay import ReplayOptions, replay
from test.conftest import OFFICE
from test.ros.bags import START_NS, BagOfACamera, image, odometry, transforms
from test.test_cli import scal3r

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
    with AnyReader([out / "a" / "bag"]) as reader:  # players offer late listeners what was latched
        latched = {c.topic for c in reader.connections for qos in c.ext.offered_qos_profiles
                   if qos.durability == QosDurability.TRANSIENT_LOCAL}  # fmt: skip
    assert latched >= {"/keyframe", "/path"}
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
def test_any_usual_camera_without_camera_info(office, tmp_path, encoding, plugin, caplog):
    topic = "/usb_cam/image_raw/compressed" if encoding == "jpeg" else "/usb_cam/image_raw"
    with BagOfACamera(tmp_path / "bag", plugin=plugin) as writer:
        writer.images(office[:12], encoding, topic, 33_333_333)
    done = replay(ReplayOptions(tmp_path / "bag", tmp_path / "out", parameters=QUICK))
    assert (done["images"], done["dropped"]) == (12, 0)
    assert done["chunks"] >= 1 and done["points"] > 0
    assert "intrinsics are estimated: no camera_info is used" in caplog.text


def test_wheel_odometry_makes_the_map_metric(office, tmp_path):
    """The odometry has other stamps than the images, comes later in the bag, and is of a base with
    axes of its own."""
    truth = read_trajectory(OFFICE / "groundtruth.txt")
    T_base_cam = np.eye(4)
    T_base_cam[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    with BagOfACamera(tmp_path / "bag") as writer:
        mast = transforms(START_NS, T_base_cam, "base_link", "camera_optical_frame")
        writer.write("/tf_static", START_NS, mast)
        writer.info(office[0], "/camera/camera_info")
        for frame in office[:130]:
            stamp_ns = START_NS + frame.stamp_ns
            writer.write("/camera/image_raw", stamp_ns, image(frame.image, "rgb8", stamp_ns))
            if frame.stamp_ns in truth:
                said = odometry(
                    stamp_ns + 3_000_000, truth[frame.stamp_ns] @ invert_pose(T_base_cam)
                )
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


@pytest.fixture(scope="module")
def short(office, tmp_path_factory):
    """The camera of a robot that says its wheels' odometry too."""
    path = tmp_path_factory.mktemp("short") / "bag"
    with BagOfACamera(path) as writer:
        writer.images(office[:12], "rgb8", "/camera/image_raw", 100_000_000)
        writer.write("/wheels", START_NS, odometry(START_NS, np.eye(4)))
    return path


def places_of_odom(bag) -> list[tuple[float, float, float]]:
    """Where odom lies in map, every time that it is told."""
    with AnyReader([bag], default_typestore=typestore()) as reader:
        told = reader.messages([c for c in reader.connections if c.topic == "/tf"])
        transforms = [t for c, _, d in told for t in reader.deserialize(d, c.msgtype).transforms]
    places = [t.transform.translation for t in transforms if t.child_frame_id == "odom"]
    return [(v.x, v.y, v.z) for v in places]


def test_odometry_of_somebody_else_is_not_taken_for_the_trackers(replayed, office, tmp_path):
    """Topics of a robot may have the names of ours."""
    wrong = np.eye(4)
    wrong[:3, 3] = 100.0
    with BagOfACamera(tmp_path / "bag") as writer:
        writer.info(office[0], "/front/camera_info")
        for frame in office[:40]:
            stamp_ns = START_NS + frame.index * 100_000_000
            writer.write("/front/image_raw", stamp_ns, image(frame.image, "bgr8", stamp_ns))
            writer.write("/odometry", stamp_ns + 1000, odometry(stamp_ns, wrong))
    replay(ReplayOptions(tmp_path / "bag", tmp_path / "out"))
    right = places_of_odom(replayed[0] / "a" / "bag")
    assert right and places_of_odom(tmp_path / "out" / "bag") == right


@pytest.mark.parametrize(
    ("parameters", "remap", "said"),
    [
        (("scale_source:=depth",), (), r"ask for /sensor_depth/image, but .* has no"),
        (("scale_source:=stereo",), (), r"ask for /right/"),
        (("scale_source:=imu",), (), r"ask for /imu, .*it has .*'/wheels'"),
        (("odom_source:=topic",), (), r"ask for /odom, .*remap odom:=TOPIC"),
        (("odom_source:=tf",), (), r"ask for /tf,"),
        (("mask_topic:=robot_mask",), (), r"ask for /robot_mask,"),
        (("use_camera_info:=required",), (), r"ask for /camera_info, .* no /camera/camera_info"),
        (("scale_source:=odometry",), (), r"needs odom_source topic or tf, got tracker"),
        (("odom_source:=topic",), ("odm:=/wheels",), r"listens to /odm .*'/odom'"),
        ((), ("odom:=/wheels",), r"nothing listens to /odom with these parameters"),
        (("odom_source:=topic",), ("odom:=/camera/image_raw",), r"/odom takes nav_msgs/msg/Odom"),
        ((), ("image:=/wheels",), r"has no image topic /wheels"),
        ((), ("odom=/wheels",), r"remapped as ROLE:=TOPIC, got 'odom=/wheels'"),
        (("fixed_scale:=[",), (), r"fixed_scale:=\[: while parsing"),
        (("intrinsics:=[9.0, 9.0]",), (), r"intrinsics must be fx, fy, cx, cy with positive"),
        (("intrinsics:=[-9.0, 9.0, 1.0, 1.0]",), (), r"intrinsics must be fx, fy, cx, cy with pos"),
        (("max_chunk_wait:=1.0",), (), r"max_chunk_wait says nothing to a replay"),
    ],
)
def test_what_would_do_nothing_is_refused_and_leaves_nothing(
    short, tmp_path, parameters, remap, said
):
    with pytest.raises(ValueError, match=said):
        replay(ReplayOptions(short, tmp_path / "out", remap=remap, parameters=parameters))
    assert [*tmp_path.rglob("*")] in ([], [tmp_path / "out"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("just some text", r"must name nodes and their ros__parameters, it holds a str"),
        ("map_node: {ros__parameters: {map_frame: m}}", r"nothing for mapping_node, .*'map_node'"),
        ("mapping_node: {chunk_size: 8}", r"mapping_node must hold ros__parameters"),
        ("mapping_node: [", r"while parsing"),
        ("/robot/mapping_node: {ros__parameters: {chunk_sise: 8}}", r"no parameter chunk_sise"),
    ],
)
def test_a_parameter_file_that_says_nothing_to_mapping_node_is_refused(short, tmp_path, text, said):
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(ParameterError, match=said):
        replay(ReplayOptions(short, tmp_path / "out", params_file=tmp_path / "p.yaml"))


def test_images_that_are_all_refused_are_said_with_the_reason(office, tmp_path):
    with BagOfACamera(tmp_path / "bag") as writer:
        for frame in office[:4]:
            writer.write("/image", START_NS + frame.index, image(frame.image, "rgb8", 0))
    with pytest.raises(SequenceError, match=r"none of its 4 images is used: image stamps must be"):
        replay(ReplayOptions(tmp_path / "bag", tmp_path / "out"))


@pytest.mark.parametrize(("way", "images"), [("auto", 20), ("new_map", 40), ("ignore", 20)])
def test_a_bag_whose_stamps_go_back_is_replayed_as_online(office, tmp_path, way, images):
    """A clock that was set: the first half is two hours ahead."""
    with BagOfACamera(tmp_path / "bag") as writer:
        for frame in office[:40]:
            stamp_ns = START_NS + frame.index * 10**8
            ahead_ns = 7200 * 10**9 if frame.index < 20 else 0
            writer.write("/image", stamp_ns, image(frame.image, "rgb8", stamp_ns + ahead_ns))
    options = (*QUICK, f"on_time_jump:={way}")
    report = replay(ReplayOptions(tmp_path / "bag", tmp_path / "out", parameters=options))
    assert (report["images"], report["dropped"]) == (images, 20 if way == "ignore" else 0)
    poses = read_trajectory(tmp_path / "out" / "trajectory.txt")
    assert len(poses) == images
    late = [stamp for stamp in poses if stamp > START_NS + 3600 * 10**9]
    assert len(late) == {"auto": 0, "new_map": 20, "ignore": 20}[way]


def test_a_damaged_message_is_said(short, tmp_path, office):
    with BagOfACamera(tmp_path / "bag") as writer:
        writer.images(office[:2], "rgb8", "/image", 100_000_000)
        writer.writer.write(writer.connections["/image"], START_NS + 10**9, b"\0\1\0\0oh no")
    with pytest.raises(ValueError, match=r"on /image is damaged, it is no sensor_msgs/msg/Image"):
        replay(ReplayOptions(tmp_path / "bag", tmp_path / "out"))


def test_results_are_replaced_only_if_asked_and_only_by_results(short, office, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="device must be"):
        replay(ReplayOptions(short, out, parameters=("device:=foo",)))
    first = replay(ReplayOptions(short, out, parameters=QUICK))  # the same, corrected
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert {"bag.mcap", "metadata.yaml", "map.json", "map.ply"} < {path.name for path in before}
    with pytest.raises(SequenceError, match="results already.*--overwrite"):
        replay(ReplayOptions(short, out))
    with pytest.raises(ValueError, match="device must be"):
        replay(ReplayOptions(short, out, parameters=("device:=foo",), overwrite=True))
    for source in (out / "bag", out / "bag" / "bag.mcap"):
        with pytest.raises(SequenceError, match="would write over the input"):
            replay(ReplayOptions(source, out, topic="/depth/image", overwrite=True))
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    again = replay(ReplayOptions(short, out, parameters=QUICK, overwrite=True))
    assert again == first
    assert {path.name for path in out.iterdir()} == {
        path.relative_to(out).parts[0] for path in before
    }


def test_the_command_line_says_what_a_bag_is(office, tmp_path):
    for source, options, said in (
        (OFFICE, (), "is no rosbag2"),
        (OFFICE, (), "`scal3r map`"),
        (tmp_path / "none", (), "none does not exist"),
        (OFFICE, ("--images", "-3"), "--images"),
    ):
        done = scal3r("replay", source, "--out", tmp_path / "out", *options)
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_bad_input_is_said(bag, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ParameterError, match="there is no parameter chunk_sise"):
        replay(ReplayOptions(bag, out, parameters=("chunk_sise:=8",)))
    with pytest.raises(ParameterError, match=r"max_depth must be in \[0, 1000\]"):
        replay(ReplayOptions(bag, out / "b", parameters=("max_depth:=-1.0",)))
    with pytest.raises(SequenceError, match="has no topic /wheels"):
        replay(ReplayOptions(bag, out / "c", remap=("odom:=/wheels",)))
