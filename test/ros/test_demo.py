"""The demo's products, read back with the libraries that users have."""

import contextlib
import json
import os
from pathlib import Path

import cv2
import numpy as np
import open3d
import pytest
from rosbags.highlevel import AnyReader

from scal3r_ros.data.folder import stamp_ns
from scal3r_ros.data.sequence import SequenceError
from scal3r_ros.data.tum import read_trajectory
from scal3r_ros.evaluation.trajectory import evaluate
from scal3r_ros.ros.conversions import pose_to_matrix, stamp_to_ns, transform_to_matrix
from scal3r_ros.ros.demo import WRITTEN, run_demo
from scal3r_ros.ros.fallback.tf import TransformTree
from test.conftest import OFFICE
from test.ros.conftest import DEMO_IMAGES

pytestmark = [pytest.mark.ros, pytest.mark.slow]
STAMPS = [stamp_ns(line, "") for line in (OFFICE / "times.txt").read_text().split()][:DEMO_IMAGES]


@pytest.fixture(scope="module")
def messages(demo) -> dict[str, list]:
    """Topic -> deserialised messages of the bag, without ROS."""
    found: dict[str, list] = {}
    with AnyReader([demo / "bag"]) as bag:
        for connection, _, data in bag.messages():
            message = bag.deserialize(data, connection.msgtype)
            found.setdefault(connection.topic, []).append(message)
    return found


def test_the_map_opens_in_open3d(demo):
    cloud = open3d.io.read_point_cloud(str(demo / "map.ply"))
    assert len(cloud.points) > 20_000
    assert np.isfinite(np.asarray(cloud.points)).all()
    assert np.asarray(cloud.colors).std() > 0.05


def test_every_image_has_a_pose_near_the_true_one(demo):
    trajectory = read_trajectory(demo / "trajectory.txt")
    assert list(trajectory) == STAMPS
    errors = evaluate(read_trajectory(OFFICE / "groundtruth.txt"), trajectory)
    assert errors.ate_share < 0.12


def test_the_pictures_show_something(demo):
    for name in ("map.png", "depth.png", "filters.png", "topics.png"):
        picture = cv2.imread(str(demo / name))
        assert picture is not None
        assert picture.std() > 15


def test_the_report_counts_every_image(demo):
    report = json.loads((demo / "report.json").read_text())
    assert report["frames"] == DEMO_IMAGES
    assert report["drops"] == {"overload": 0, "invalid": 0, "odometry_overload": 0}
    assert report["chunks"] >= 3
    assert report["points"] > 20_000


def test_chunks_cover_every_keyframe_with_image_stamps(messages):
    chunks = messages["/chunk"]
    assert [c.chunk_id for c in chunks] == list(range(len(chunks)))
    new = [stamp_to_ns(s) for c in chunks for s in c.stamps[c.overlap :]]
    assert new == sorted(set(new))
    assert set(new) <= set(STAMPS)
    assert {c.header.frame_id for c in chunks} == {"map"}


def test_odometry_has_image_stamps_and_frames(messages):
    odometry = messages["/odometry"]
    stamps = [stamp_to_ns(m.header.stamp) for m in odometry]
    assert len(stamps) == len(set(stamps)) >= 10
    first = STAMPS.index(stamps[0])
    assert stamps == STAMPS[first : first + len(stamps)]  # every image, from the first keyframe on
    assert {(m.header.frame_id, m.child_frame_id) for m in odometry} == {
        ("odom", "camera_optical_frame")
    }
    for message in odometry:
        covariance = np.array(message.pose.covariance).reshape(6, 6)
        assert np.linalg.eigvalsh(covariance).min() > 0


def test_tf_is_one_tree_and_says_what_odometry_says(messages):
    tree, parents = TransformTree(), {}
    for message in messages["/tf"]:
        for t in message.transforms:
            parents.setdefault(t.child_frame_id, set()).add(t.header.frame_id)
            tree.set(
                t.header.frame_id,
                t.child_frame_id,
                stamp_to_ns(t.header.stamp),
                transform_to_matrix(t.transform),
            )
    assert parents == {"odom": {"map"}, "camera_optical_frame": {"odom"}}
    for message in messages["/odometry"]:
        stamp = stamp_to_ns(message.header.stamp)
        T = tree.lookup("odom", "camera_optical_frame", stamp)
        np.testing.assert_allclose(T, pose_to_matrix(message.pose.pose), atol=1e-6)


def test_odometry_is_continuous(messages):
    """REP 105: the odom frame never jumps, whatever the map does."""
    odometry = messages["/odometry"]
    path = np.array([pose_to_matrix(m.pose.pose)[:3, 3] for m in odometry])
    seconds = np.diff([stamp_to_ns(m.header.stamp) for m in odometry]) / 1e9
    speed = np.linalg.norm(np.diff(path, axis=0), axis=1) / seconds
    assert speed.max() < 8 * np.median(speed) + 1e-3


def test_observation_clouds_are_in_the_camera_frame_with_the_images_stamp(messages):
    clouds = messages["/points"]
    assert clouds
    for cloud in clouds:
        assert cloud.header.frame_id == "camera_optical_frame"
        assert stamp_to_ns(cloud.header.stamp) in STAMPS
        names = {f.name: f.offset for f in cloud.fields}
        assert {"x", "y", "z", "rgb", "confidence"} <= set(names)
        data = np.asarray(cloud.data).reshape(-1, cloud.point_step)
        z = data[:, names["z"] : names["z"] + 4].copy().view(np.float32)
        assert np.median(z) > 0  # before the camera


def test_depth_images_are_rep_118(messages):
    image = messages["/depth/image"][0]
    assert image.encoding == "32FC1"
    depth = np.frombuffer(image.data, np.float32).reshape(image.height, image.width)
    assert np.nanmedian(depth) > 0


def test_no_process_is_left_behind(demo):
    said = []  # of the processes of ours, where their logs go
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            said.append((process / "environ").read_bytes())
    assert said
    assert not [s for s in said if f"ROS_LOG_DIR={demo}".encode() in s]


def test_a_demo_clears_what_a_demo_left_and_nothing_else(tmp_path, monkeypatch):
    """Again and again into one folder, but not into one with files of the user's."""
    for name in ("ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_LOG_DIR"):
        monkeypatch.setenv(name, os.environ.get(name, "7"))

    def play(sequence: Path, out: Path, *_: object) -> None:
        assert not any(out.iterdir())
        (out / "bag").mkdir()
        for name in WRITTEN - {"bag", "log"}:
            (out / name).touch()

    monkeypatch.setattr("scal3r_ros.ros.demo.play", play)
    monkeypatch.setattr("scal3r_ros.ros.demo.finish", lambda *_: 0)
    out = tmp_path / "out"
    assert [run_demo(OFFICE, out) for _ in range(3)] == [0, 0, 0]
    (out / "thesis.tex").touch()
    (tmp_path / "home" / "pictures").mkdir(parents=True)
    for folder, said in ((out, "thesis.tex"), (tmp_path / "home", "pictures")):
        before = sorted(folder.rglob("*"))
        with pytest.raises(SequenceError, match=said):
            run_demo(OFFICE, folder)
        assert sorted(folder.rglob("*")) == before
