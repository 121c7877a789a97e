"""The demo: a sequence over real ROS 2 topics through the three nodes into a map to look at."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from tqdm import tqdm

from scal3r_ros.data.sequence import open_sequence
from scal3r_ros.evaluation.report import commit, summary, versions, write_report
from scal3r_ros.evaluation.results_folder import empty_folder
from scal3r_ros.ros.interfaces import Status
from scal3r_ros.ros.map_publisher import LATCHED
from scal3r_ros.ros.rebuild import Recording, read_recording, write_results

NODES = ("mapping_node", "odometry_node", "map_node", "recorder", "image_publisher")
PICTURES = ("map.png", "depth.png", "filters.png", "topics.png")
WAYS = ("trajectory.txt", "keyframes.txt", "odometry.txt")
LOGS = [f"{name}.log" for name in NODES]
WRITTEN = {"bag", "log", "map.ply", "report.json", *PICTURES, *WAYS, *LOGS}
START_TIMEOUT_S = 90.0
SETTLE_S = 8.0  # no new chunk for this long after the last image: everything is mapped
STALL_S = 60.0  # nothing moves for this long: something is lost
MAX_PENDING = 10  # images the publisher lets wait: nothing is thinned, however slow the machine


class DemoError(Exception):
    """Why the demo ended early, in one line."""


@dataclass(eq=False)
class Processes:
    """Children in their own process group, ended cleanly and together."""

    out: Path
    environment: dict[str, str]
    running: dict[str, subprocess.Popen] = field(default_factory=dict)

    def start(self, name: str, parameters: dict[str, Any]) -> None:
        arguments = [sys.executable, "-m", f"scal3r_ros.ros.{name}", "--ros-args"]
        for key, content in parameters.items():
            arguments += ["-p", f"{key}:={content}"]
        log = (self.out / f"{name}.log").open("w")
        self.running[name] = subprocess.Popen(
            arguments,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=self.environment,
            start_new_session=True,
        )

    def check(self) -> None:
        for name, process in self.running.items():
            if name != "image_publisher" and process.poll() is not None:
                raise DemoError(
                    f"{name} ended with code {process.returncode}: {self.last_line(name)}"
                )

    def last_line(self, name: str) -> str:
        lines = (self.out / f"{name}.log").read_text().strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def stop(self) -> None:
        """SIGINT and some time, then SIGKILL; nothing is left behind."""
        for process in self.running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        for process in self.running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=25.0)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        remove_shared_memory([p.pid for p in self.running.values()])
        self.running.clear()


def remove_shared_memory(pids: list[int]) -> None:
    """Segments that killed children of ours left in /dev/shm; a running process keeps its own."""
    folder = Path("/dev/shm")
    if not folder.is_dir() or any(_alive(pid) for pid in pids):
        return
    holders = (
        subprocess.run(
            ["fuser", "-s", *map(str, folder.glob("fastdds_*"))], check=False, capture_output=True
        )
        if shutil.which("fuser")
        else None
    )
    if holders is not None and holders.returncode == 0:
        return  # somebody else's segments are in use
    for file in (*folder.glob("fastdds_*"), *folder.glob("sem.fastdds_*")):
        with contextlib.suppress(OSError):
            if file.stat().st_uid == os.getuid() and not _is_open(file):
                file.unlink()


def _alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _is_open(file: Path) -> bool:
    """Whether any process of ours maps or holds the file."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(file) in (process / "maps").read_text():
                return True
    return False


def run_demo(sequence: Path, out: Path, *, rate: float = 0.0, frames: int = 0) -> int:
    """0 and a map, or 1 and a reason; an earlier demo's results in `out` go. `rate` 0 plays as
    fast as the mapper takes images."""
    total = len(open_sequence(sequence))
    total = min(total, frames) if frames else total
    empty_folder(out, WRITTEN, mark="recorder.log")
    processes = Processes(out, private_environment(out))
    began = time.monotonic()
    os.environ.update(processes.environment)
    try:
        play(sequence, out, processes, total, rate, frames)
        seconds = time.monotonic() - began
    except DemoError as error:
        print(f"demo failed: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, ExternalShutdownException):
        print("demo interrupted", file=sys.stderr)
        return 130
    finally:
        processes.stop()
    return finish(sequence, out, seconds, frames)


def private_environment(out: Path) -> dict[str, str]:
    """Its own DDS domain on this machine only, so that no robot nearby is disturbed."""
    domain = 1 + os.getpid() % 200
    return {
        **os.environ,
        "ROS_DOMAIN_ID": os.environ.get("ROS_DOMAIN_ID", str(domain)),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_LOG_DIR": str((out / "log").resolve()),
        "PYTHONUNBUFFERED": "1",
    }


def play(
    sequence: Path, out: Path, processes: Processes, total: int, rate: float, frames: int
) -> None:
    """Starts everything, publishes the sequence, waits until all of it is mapped."""
    processes.start("recorder", {"bag": out / "bag"})
    processes.start("map_node", {"map_folder": out.resolve()})
    # the sequence's own clock; a queue for all images that may be under way
    shared = {"use_sim_time": True, "image_queue_depth": 4 * MAX_PENDING}
    processes.start("odometry_node", shared)
    processes.start("mapping_node", {"model": "nano", "max_chunk_wait": 4.0, **shared})
    rclpy.init()
    node = Node("demo")
    watch = StatusWatch(node)
    try:
        watch.until(processes, lambda s: s.state == Status.WAITING, START_TIMEOUT_S)
        processes.start(
            "image_publisher",
            {
                "sequence": sequence,
                "rate": float(rate),
                "max_pending": MAX_PENDING,
                "wait_for_subscribers": 2,
                "max_images": frames,
                "publish_clock": True,
            },
        )
        with tqdm(total=total, unit="image", desc="mapping over ROS 2") as bar:
            watch.follow(processes, total, bar)
    finally:
        node.destroy_node()
        if rclpy.ok():
            rclpy.shutdown()


class StatusWatch:
    """Follows mapping_node by its status."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.status: Status | None = None
        node.create_subscription(Status, "status", self._take, LATCHED)

    def _take(self, status: Status) -> None:
        self.status = status

    def until(self, processes: Processes, reached, timeout_s: float) -> None:
        end = time.monotonic() + timeout_s
        while self.status is None or not reached(self.status):
            processes.check()
            if self.status is not None and self.status.state == Status.ERROR:
                raise DemoError(f"mapping_node: {self.status.message}")
            if time.monotonic() > end:
                raise DemoError(
                    f"mapping_node did not start: {processes.last_line('mapping_node')}"
                )
            rclpy.spin_once(self.node, timeout_sec=0.1)

    def follow(self, processes: Processes, total: int, bar: tqdm) -> None:
        """Until every image has gone through and no chunk has come for a while."""
        before, moved_at = (-1, -1), time.monotonic()
        publisher = processes.running["image_publisher"]
        while True:
            processes.check()
            rclpy.spin_once(self.node, timeout_sec=0.2)
            status = self.status
            assert status is not None
            if status.state == Status.ERROR:
                raise DemoError(f"mapping_node: {status.message}")
            if publisher.poll() not in (None, 0):
                raise DemoError(f"image_publisher: {processes.last_line('image_publisher')}")
            seen = status.frames_received - status.pending_frames
            bar.set_postfix(chunks=status.chunks, loops=status.loops, refresh=False)
            bar.update(min(total, seen) - bar.n)
            if (seen, status.chunks) != before:
                before, moved_at = (seen, status.chunks), time.monotonic()
            quiet_s = time.monotonic() - moved_at
            if seen >= total and quiet_s > SETTLE_S:
                return
            if quiet_s > STALL_S:
                raise DemoError(f"stalled after {seen} of {total} images")


def finish(sequence: Path, out: Path, seconds: float, frames: int) -> int:
    """Everything is made from the bag: what was recorded is enough."""
    recording = read_recording(out / "bag")
    points = write_results(recording, sequence, out, frames)
    report = demo_report(recording, points, seconds)
    write_report(out / "report.json", report)
    print(summary(report))
    if not points:
        print("demo failed: the map is empty", file=sys.stderr)
        return 1
    print(f"  map      {out / 'map.ply'}\n  picture  {out / 'map.png'}\n  bag      {out / 'bag'}")
    return 0


def demo_report(recording: Recording, points: int, seconds: float) -> dict[str, Any]:
    s, o = recording.status, recording.odometry_status
    received = int(s.frames_received) if s else 0
    return {
        "frames": received,
        "keyframes": int(s.frames_used) if s else 0,
        "chunks": int(s.chunks) if s else 0,
        "loops": int(s.loops) if s else 0,
        "loops_refused": int(s.loops_refused) if s else 0,
        "odometry_poses": len(recording.odometry),
        "points": points,
        "seconds": round(seconds, 1),
        "frames_per_second": round(received / max(seconds, 1e-9), 2),
        "seconds_per_chunk": round(float(s.inference_time_mean), 3) if s else 0.0,
        "peak_host_memory_mb": _children_peak_mb(),
        "peak_gpu_memory_mb": round(recording.peak_gpu_memory / 2**20, 1),
        "drops": {
            "overload": int(s.frames_dropped_overload) if s else 0,
            "invalid": int(s.frames_dropped_invalid) if s else 0,
            "odometry_overload": int(o.frames_dropped_overload) if o else 0,
        },
        "scale": {
            "metric": bool(s.metric) if s else False,
            "map_units_per_submap_unit": float(s.scale) if s else 1.0,  # of the newest submap
        },
        "messages": recording.topics,
        "versions": versions(),
        "commit": commit(),
    }


def _children_peak_mb() -> float:
    """Of the largest child process."""
    import resource

    return round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, 1)
