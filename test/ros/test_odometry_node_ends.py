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
    Keyframe(0, 10**9, image, np.full((240, 320), 2.0, np.float32), K, np.eye(4), 0)
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
