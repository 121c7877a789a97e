"""`scal3r doctor --image`: what is wrong with a running camera is named with its remedy."""

import json
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from geometry_msgs.msg import TransformStamped
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from scal3r_ros.ros.conversions import camera_to_info, ns_to_stamp, rgb_to_image
from scal3r_ros.ros.fallback.tf import transform_broadcaster
from test.conftest import ROOT

pytestmark = [pytest.mark.ros, pytest.mark.slow]
K = np.array([[100.0, 0, 80], [0, 100.0, 60], [0, 0, 1]])


def doctor(nodes, *options: str) -> dict[str, tuple[bool, str]]:
    out = nodes.folder / "doctor.json"
    command = [sys.executable, "-m", "scal3r_ros.cli", "doctor", "--json", str(out)]
    done = subprocess.run(
        [*command, "--seconds", "2", *options],
        env=nodes.environment, cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return {f["name"]: (f["ok"], f["text"]) for f in json.loads(out.read_text())}


class Driver:
    """A camera driver that publishes while the doctor looks."""

    def __init__(self, node, *, calibrated: bool = True, stamps: str = "now", qos=10) -> None:
        self.images = node.create_publisher(Image, "/cam/image_raw", qos)
        self.infos = node.create_publisher(CameraInfo, "/cam/camera_info", 10)
        self.K, self.stamps = K if calibrated else np.zeros((3, 3)), stamps
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        picture = np.zeros((120, 160, 3), np.uint8)
        while not self.stop.is_set():
            now = time.time_ns() if self.stamps == "now" else 0
            head = Header(frame_id="cam_optical", stamp=ns_to_stamp(now))
            self.images.publish(rgb_to_image(picture, head))
            info = camera_to_info(K, 120, 160, head)
            info.k = self.K.flatten().tolist()
            self.infos.publish(info)
            time.sleep(0.05)

    def __enter__(self) -> "Driver":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()


def test_a_healthy_camera_on_a_robot(nodes, node):
    mount = TransformStamped(child_frame_id="cam_optical")
    mount.header.frame_id, mount.transform.rotation.w = "base_link", 1.0
    node.mount(mount)
    with Driver(node):
        found = doctor(nodes, "--image", "/cam/image_raw", "--base-frame", "base_link")
    assert found["images on /cam/image_raw"][0], found
    assert found["calibration on /cam/camera_info"][0]
    assert found["stamps"][0] and found["base_link -> cam_optical"] == (True, "known")


def test_nobody_publishes_and_what_else_there_is(nodes, node):
    with Driver(node):
        found = doctor(nodes, "--image", "/camera/image_raw")
    ok, text = found["images on /camera/image_raw"]
    assert not ok and "no publisher; image topics here: /cam/image_raw" in text


def test_no_calibration_no_stamps_no_transform_two_parents(nodes, node):
    with Driver(node, calibrated=False, stamps="zero"):
        broadcaster, stop = transform_broadcaster(node), threading.Event()

        def two_parents() -> None:
            while not stop.wait(0.1):
                for parent in ("odom", "world"):
                    t = TransformStamped(child_frame_id="base_link")
                    t.header.frame_id, t.transform.rotation.w = parent, 1.0
                    broadcaster.sendTransform(t)

        thread = threading.Thread(target=two_parents, daemon=True)
        thread.start()
        options = ("--image", "/cam/image_raw", "--base-frame", "base_link", "--use-sim-time")
        found = doctor(nodes, *options)
        stop.set()
        thread.join()
    assert "K is zero" in found["calibration on /cam/camera_info"][1]
    assert "stamps are zero" in found["stamps"][1]
    assert "nobody publishes /clock" in found["clock"][1]
    assert "odom and world" in found["transform to base_link"][1]
    assert "not connected" in found["base_link -> cam_optical"][1]


def test_who_asks_for_more_than_the_camera_gives_and_a_transform_of_two_nodes(nodes, node):
    best = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    wants = node.create_subscription(Image, "/cam/image_raw", lambda _: None, 10)
    with Driver(node, qos=best):
        broadcaster, stop = transform_broadcaster(node), threading.Event()

        def two_nodes() -> None:
            while not stop.wait(0.1):
                now = time.time_ns()
                for stamp_ns in (now, now - 50_000_000):
                    t = TransformStamped(child_frame_id="base_link")
                    t.header.frame_id, t.transform.rotation.w = "odom", 1.0
                    t.header.stamp = ns_to_stamp(stamp_ns)
                    broadcaster.sendTransform(t)

        thread = threading.Thread(target=two_nodes, daemon=True)
        thread.start()
        found = doctor(nodes, "--image", "/cam/image_raw")
        stop.set()
        thread.join()
    assert found["images on /cam/image_raw"][0], found
    assert "the camera publishes best-effort" in found["test listens to /cam/image_raw"][1]
    assert "two nodes publish it" in found["transform odom -> base_link"][1]
    node.destroy_subscription(wants)
