"""Nodes in processes of their own, on a DDS domain of their own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")
pytest.importorskip("scal3r_ros.msg", reason="the messages are not built: make setup")

from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from scal3r_ros.data.sequence import open_sequence
from scal3r_ros.mapping.types import Frame
from scal3r_ros.ros.conversions import ns_to_stamp, rgb_to_image
from test.conftest import OFFICE, ROOT

DEMO_IMAGES = 54
START_NS = 1_700_000_000_000_000_000
FAKE = "test.ros.fake_network_node"
FAST = {"refinement": False, "loop_closure": False, "max_chunk_wait": 1.0}


class Nodes:
    """Starts executables, waits for them, ends them; what they said is kept for a failure."""

    def __init__(self, folder: Path, domain: int) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "ROS_DOMAIN_ID": str(domain),
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
            "ROS_LOG_DIR": str(folder / "log"),
            "OMP_NUM_THREADS": "1",
        }
        self.running: dict[str, subprocess.Popen] = {}

    def start(self, name: str, module: str = "", **parameters: object) -> None:
        """`module` takes the place of scal3r_ros.ros.NAME."""
        command = [sys.executable, "-m", module or f"scal3r_ros.ros.{name}", "--ros-args"]
        for key, value in parameters.items():
            command += ["-p", f"{key}:={value}"]
        log = (self.folder / f"{name}.log").open("w")
        self.running[name] = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=self.environment, cwd=ROOT
        )

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def stop(self) -> dict[str, int]:
        """Exit codes after SIGINT."""
        for process in self.running.values():
            process.send_signal(signal.SIGINT)
        codes = {}
        for name, process in self.running.items():
            try:
                codes[name] = process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                codes[name] = -9
        self.running.clear()
        return codes


class Camera:
    """Publishes images of the office as a driver would, with the stamps that a test wants."""

    def __init__(self, node, *, reliable: bool = True) -> None:
        policy = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        qos = QoSProfile(depth=60, reliability=policy)
        self.node = node
        self.images = node.create_publisher(Image, "image", qos)
        self.infos = node.create_publisher(CameraInfo, "camera_info", qos)

    def wait_for(self, subscribers: int) -> None:
        self.node.until(
            lambda: self.images.get_subscription_count() >= subscribers, 60, "the nodes listen"
        )

    def send(self, message: Image, stamp_ns: int, pause_s: float = 0.03) -> None:
        message.header.stamp = ns_to_stamp(stamp_ns)
        message.header.frame_id = "camera_optical_frame"
        self.images.publish(message)
        end = time.monotonic() + pause_s
        self.node.until(lambda: time.monotonic() > end, 60, "the pause")

    def play_until(
        self, reached: Callable[[], object], frames: list[Frame], start_ns: int, what: str
    ) -> int:
        """To and fro through the frames, in real time; returns the last stamp."""
        there_and_back = [*frames, *frames[-2:0:-1]]
        for index in range(400):
            stamp_ns = start_ns + index * 100_000_000
            frame = there_and_back[index % len(there_and_back)]
            self.send(rgb_to_image(frame.image, Header()), stamp_ns, pause_s=0.1)
            if reached():
                return stamp_ns
        raise AssertionError(f"{what} did not happen")

    def play(
        self, frames: list[Frame], start_ns: int = START_NS, *, scale: float = 1.0, **options
    ) -> None:
        """Ten images a second by their stamps."""
        for index, frame in enumerate(frames):
            image = cv2.resize(frame.image, None, fx=scale, fy=scale)
            self.send(rgb_to_image(image, Header()), start_ns + index * 100_000_000, **options)


@pytest.fixture(scope="session")
def domain() -> int:
    return 1 + os.getpid() % 200


@pytest.fixture
def nodes(tmp_path, domain) -> Iterator[Nodes]:
    started = Nodes(tmp_path, domain)
    yield started
    started.stop()


@pytest.fixture
def node(domain) -> Iterator[object]:
    """A node of the test itself, in the same domain."""
    import rclpy
    from rclpy.context import Context
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.node import Node
    from tf2_msgs.msg import TFMessage

    from scal3r_ros.ros.fallback.tf import STATIC

    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    context = Context()
    rclpy.init(context=context, domain_id=domain)
    made = Node("test", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(made)

    def until(reached: Callable[[], object], timeout_s: float, what: str) -> None:
        end = time.monotonic() + timeout_s
        while not reached():
            assert time.monotonic() < end, f"{what} did not happen in {timeout_s} s"
            executor.spin_once(timeout_sec=0.1)

    def mount(transform: object) -> None:
        made.create_publisher(TFMessage, "/tf_static", STATIC).publish(
            TFMessage(transforms=[transform])
        )

    made.until, made.mount = until, mount
    yield made
    executor.shutdown()
    made.destroy_node()
    rclpy.shutdown(context=context)


@pytest.fixture(scope="session")
def office() -> list[Frame]:
    return [frame for _, frame in zip(range(48), open_sequence(OFFICE), strict=False)]


@pytest.fixture
def camera(node) -> Camera:
    return Camera(node)


@pytest.fixture(scope="session")
def demo(tmp_path_factory, domain) -> Path:
    """`make demo` on the first images: three nodes, publisher and recorder over DDS."""
    out = tmp_path_factory.mktemp("demo") / "out"
    command = [sys.executable, "-m", "scal3r_ros.cli", "demo", "--out", str(out)]
    command += ["--sequence", str(OFFICE), "--frames", str(DEMO_IMAGES)]
    environment = {**os.environ, "ROS_DOMAIN_ID": str(domain % 200 + 1), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=280
    )
    logs = "\n".join(p.read_text() for p in out.glob("*.log"))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{logs}"
    return out
