"""scal3r bench ros: the nodes under load, over DDS, as ratios of one run.

A camera process publishes a sequence to and fro at its rate with the wall clock as stamps; every
robot has its own namespace and its own nodes. Measured from outside: odometry per image and its
latency, the memory of every process, what status says was dropped, and whether anything of one
robot reached another.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from nav_msgs.msg import Odometry
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo

from scal3r_ros.doctor import fast_dds_profile, fast_dds_variable
from scal3r_ros.evaluation.report import resident_mb
from scal3r_ros.ros.conversions import (
    stamp_to_ns,
)
from scal3r_ros.ros.interfaces import Chunk, Status
from scal3r_ros.ros.map_publisher import CHUNKS, LATCHED

NODES = ("mapping_node", "odometry_node", "map_node")
WARM_UP_CHUNKS, WARM_UP_S = 6, 120.0  # until as many submaps are in memory as there may be
SETTLE_NS = 2_000_000_000  # the newest images may still be under way


@dataclass(frozen=True)
class Load:
    seconds: float = 300.0
    rate: float = 30.0
    width: int = 640
    height: int = 480
    compressed: bool = False
    robots: int = 1
    sequence: str = "examples/office"


@dataclass
class RobotSeen:
    """What came back from one robot."""

    images: set[int] = field(default_factory=set)  # stamps that the camera published
    odometry: set[int] = field(default_factory=set)  # and that odometry came for
    chunks: int = 0
    latency_ms: list[float] = field(default_factory=list)
    foreign: int = 0  # stamps that no image of this robot had
    status: Any = None
    odometry_status: Any = None


def run_load(load: Load) -> dict[str, Any]:
    """Starts everything, waits, measures; the result is plain numbers."""
    environment = {**os.environ, "ROS_DOMAIN_ID": str(100 + os.getpid() % 100)}
    environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    environment[fast_dds_variable()] = str(fast_dds_profile())
    os.environ |= environment
    names = [f"robot{i}" for i in range(load.robots)]
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder)
        running = {
            f"{name}/{node}": _start(logs, name, node, load) for name in names for node in NODES
        }
        try:
            return _measure(load, names, running)
        finally:
            for process in running.values():
                process.send_signal(signal.SIGINT)
            codes = {name: process.wait(timeout=30) for name, process in running.items()}
            for name, code in codes.items():
                if code:
                    text = (logs / f"{name.replace('/', '_')}.log").read_text()[-2000:]
                    print(f"{name} ended with {code}\n{text}", file=sys.stderr)


def _start(logs: Path, robot: str, node: str, load: Load) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        f"scal3r_ros.ros.{node}",
        "--ros-args",
        "-r",
        f"__ns:=/{robot}",
        "-r",
        "/tf:=tf",
        "-r",
        "/tf_static:=tf_static",
    ]
    if load.compressed and node != "map_node":
        command += ["-p", "image_transport:=compressed"]
    log = (logs / f"{robot}_{node}.log").open("w")
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def _camera(load: Load, robots: list[str]) -> subprocess.Popen:
    options = json.dumps({**asdict(load), "names": robots})
    return subprocess.Popen([sys.executable, "-m", "scal3r_ros.ros.bench_camera", options])


def _measure(load: Load, names: list[str], running: dict[str, subprocess.Popen]) -> dict[str, Any]:
    rclpy.init()
    node = Node("bench")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    seen = {name: RobotSeen() for name in names}
    measuring = [False]
    for index, name in enumerate(names):
        _listen(node, name, index, seen[name], measuring)
    camera = _camera(load, names)
    end = time.monotonic() + 120
    while not all(r.odometry_status and r.odometry_status.frames_used for r in seen.values()):
        executor.spin_once(timeout_sec=0.1)
        if time.monotonic() > end or any(p.poll() is not None for p in running.values()):
            camera.kill()
            raise RuntimeError("the nodes did not begin to track in 120 s")
    end = time.monotonic() + WARM_UP_S
    while min(r.chunks for r in seen.values()) < WARM_UP_CHUNKS and time.monotonic() < end:
        executor.spin_once(timeout_sec=0.1)
    for robot in seen.values():
        robot.chunks = 0
    before = {name: r.odometry_status for name, r in seen.items()}
    measuring[0] = True
    memory: dict[str, list[float]] = {name: [] for name in running}
    began = time.monotonic()
    while time.monotonic() - began < load.seconds:
        _spin(executor, 1.0)
        for name, process in running.items():
            memory[name].append(resident_mb(process.pid))
        if camera.poll() is not None or any(p.poll() is not None for p in running.values()):
            raise RuntimeError("a process died under load")
    measuring[0] = False
    _spin(executor, 1.0)
    camera.send_signal(signal.SIGTERM)
    camera.wait(timeout=10)
    result = {
        "load": asdict(load),
        "robots": {name: _summary(r, before[name]) for name, r in seen.items()},
        "memory_mb": {name: _memory(rows) for name, rows in memory.items()},
    }
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown()
    return result


def _listen(node: Node, name: str, index: int, seen: RobotSeen, measuring: list[bool]) -> None:
    def odometry(message: Odometry) -> None:
        if measuring[0]:
            stamp_ns = stamp_to_ns(message.header.stamp)
            seen.odometry.add(stamp_ns)
            seen.latency_ms.append((time.time_ns() - stamp_ns) * 1e-6)
            seen.foreign += stamp_ns % 1000 != index

    def chunk(message: Chunk) -> None:
        seen.chunks += 1
        seen.foreign += sum(s.nanosec % 1000 != index for s in message.stamps)

    def image(message: CameraInfo) -> None:
        if measuring[0]:
            seen.images.add(stamp_to_ns(message.header.stamp))

    qos = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE)
    node.create_subscription(CameraInfo, f"/{name}/camera_info", image, qos)
    node.create_subscription(Odometry, f"/{name}/odometry", odometry, qos)
    node.create_subscription(Chunk, f"/{name}/chunk", chunk, CHUNKS)
    for field_name, topic in (("status", "status"), ("odometry_status", "odometry_status")):
        node.create_subscription(
            Status, f"/{name}/{topic}", lambda m, f=field_name: setattr(seen, f, m), LATCHED
        )


def _spin(executor: SingleThreadedExecutor, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        executor.spin_once(timeout_sec=0.05)


def _summary(seen: RobotSeen, before: Any) -> dict[str, Any]:
    odometry, mapping = seen.odometry_status, seen.status
    settled = {stamp for stamp in seen.images if stamp < max(seen.images) - SETTLE_NS}
    answered = len(settled & seen.odometry)
    latency = np.array(seen.latency_ms or [np.nan])
    return {
        "images": len(settled),
        "odometry_share": answered / max(len(settled), 1),
        "odometry_latency_ms": {
            f"p{p}": round(float(np.percentile(latency, p)), 1) for p in (50, 95, 99)
        },
        "odometry_dropped": odometry.frames_dropped_overload - before.frames_dropped_overload,
        "chunks": seen.chunks,
        "keyframes": mapping.frames_used,
        "mapping_thinned": mapping.frames_dropped_overload,
        "mapping_received": mapping.frames_received,
        "inference_s": round(mapping.inference_time_mean, 3),
        "foreign_stamps": seen.foreign,
    }


def _memory(rows: list[float]) -> dict[str, float]:
    """First and last tenth of the run."""
    part = max(len(rows) // 10, 1)
    first, last = float(np.median(rows[:part])), float(np.median(rows[-part:]))
    return {"first": round(first, 1), "last": round(last, 1), "ratio": round(last / first, 3)}


def table(result: dict[str, Any]) -> str:
    load = result["load"]
    kind = "compressed" if load["compressed"] else "raw"
    lines = [
        f"{load['width']}x{load['height']} {kind} at {load['rate']:g} Hz, {load['seconds']:g} s"
    ]
    for name, r in result["robots"].items():
        lines += [
            f"{name}: odometry for {r['odometry_share']:.1%} of {r['images']} images",
            f"{name}: latency of odometry {r['odometry_latency_ms']} ms",
            f"{name}: {r['chunks']} chunks, {r['inference_s']} s each; "
            f"{r['mapping_thinned']} of {r['mapping_received']} images thinned",
            f"{name}: {r['foreign_stamps']} messages of another robot",
        ]
    for name, m in result["memory_mb"].items():
        lines.append(f"{name}: {m['first']:.0f} MB at first, {m['last']:.0f} at last, {m['ratio']}")
    return "\n".join(lines)
