"""Nodes in processes of their own, on a DDS domain of their own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")
pytest.importorskip("scal3r_ros.msg", reason="the messages are not built: make setup")

from test.conftest import OFFICE, ROOT

DEMO_IMAGES = 54


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
