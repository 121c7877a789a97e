"""odometry_node takes nothing of its own into the interpreter's end."""

import subprocess
import sys

import pytest

from test.conftest import ROOT

pytestmark = pytest.mark.ros
# A keyframe that is being taken over when the node is closed: a thread, and a child process.
PROGRAM = """
import os
import threading
from pathlib import Path

import numpy as np
import rclpy

from scal3r_ros.geometry.keyframe import Keyframe
from scal3r_ros.ros.odometry_node import OdometryNode

def left_over():
    names = sorted(t.name for t in threading.enumerate() if t.name in ("tracker", "keyframe"))
    threads = Path("/proc/self/task").iterdir()
    return names, [c for t in threads for c in (t / "children").read_text().split()]

rclpy.init()
node = OdometryNode()
assert node.trigger_configure().name == "SUCCESS"
assert node.trigger_activate().name == "SUCCESS"
K = np.array([[300.0, 0, 160], [0, 300, 120], [0, 0, 1]])
image = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
node.tracker.set_keyframe(
    Keyframe(0, 10**9, image, np.full((240, 320), 2.0, np.float32), K, np.eye(4))
)
print("busy", *map(len, left_over()))
node.close()
print("closed", *map(len, left_over()))
node.destroy_node()
rclpy.shutdown()
"""


def test_neither_a_thread_nor_a_process_is_left_when_it_is_closed():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split("\n")[:2] == ["busy 2 1", "closed 0 0"]


# Frames and keyframes by hand: what the thread does with odd ones.
PAUSED = """
import time
import numpy as np
import rclpy
from std_msgs.msg import Header

from scal3r_ros.mapping.types import Frame
from scal3r_ros.ros.conversions import float_to_image, ns_to_stamp, rgb_to_image
from scal3r_ros.ros.interfaces import Keyframe
from scal3r_ros.ros.odometry_node import OdometryNode

rclpy.init()
node = OdometryNode()
node.trigger_configure()
K = np.array([[300.0, 0, 160], [0, 300, 120], [0, 0, 1]])
image = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)

def see(*seconds):
    for s in seconds:
        node._on_frame(Frame(0, int(s * 1e9), image, K), "camera")
    end = time.monotonic() + 5
    while len(node.frames) and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.3)

def keyframe(s):
    head = Header(stamp=ns_to_stamp(int(s * 1e9)))
    depth = float_to_image(np.full((240, 320), 2.0, np.float32), head)
    node._on_keyframe(
        Keyframe(
            header=head, image=rgb_to_image(image, head), depth=depth, unit=1.0,
            k=K.flatten().tolist(), t_map_cam=np.eye(4).flatten().tolist(),
        )
    )

node.trigger_activate()
see(100.0, 100.1)
keyframe(100.0)
see(100.2, 100.3)
time.sleep(3)
see(100.4, 100.5)
first = node.tracked
node._start_again()  # as after a jump; then the last chunk of the old time is mapped
keyframe(101.0)
see(50.0, 50.1, 50.2)
keyframe(50.1)
see(50.3)
time.sleep(3)
see(50.4, 50.5)
second = node.tracked
node.trigger_deactivate()
node.trigger_activate()
see(10.0, 10.1)  # an older bag
keyframe(10.0)
see(10.2)
time.sleep(3)
see(10.3, 10.4)
third = node.tracked
print(first > 0, second > first, third > second, node._worker.is_alive(), repr(node._trouble))
node.tracker.track = lambda *_: 1 / 0
see(10.5)
print(node._worker.is_alive(), "ZeroDivisionError" in node._trouble)
node.trigger_shutdown()
print(node._worker, len(list(node.subscriptions)) , len(list(node.timers)))
node.close()
node.destroy_node()
rclpy.shutdown()
"""


def test_it_goes_on_after_odd_keyframes_pauses_and_faults_and_is_shut_down_from_activity():
    done = subprocess.run(
        [sys.executable, "-c", PAUSED], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = done.stdout.split("\n")
    assert said[0] == "True True True True ''", done.stdout + done.stderr[-2000:]
    assert said[1] == "True True" and "tracking began anew" in done.stderr
    assert said[2].startswith("None")
