"""diagnostic_updater where it is installed, else an Updater with the same names."""

import logging
from collections.abc import Callable
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

from scal3r_ros.ros.running import STEADY

logger = logging.getLogger(__name__)

PERIOD, PERIOD_S = "diagnostic_updater.period", 1.0  # the parameter is the package's own


class DiagnosticStatusWrapper(DiagnosticStatus):
    """As diagnostic_updater's: a status that tasks fill."""

    def summary(self, level: bytes, message: str) -> None:
        self.level, self.message = level, message

    def add(self, key: str, value: str) -> None:
        self.values.append(KeyValue(key=key, value=value))


Task = Callable[[Any], Any]


class FallbackUpdater:
    """As diagnostic_updater.Updater: publishes every task's status once a period."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._tasks: dict[str, Task] = {}
        self._hardware = "none"
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        period_s = float(node.declare_parameter(PERIOD, PERIOD_S).value or PERIOD_S)
        self._timer = node.create_timer(period_s, self.update, clock=STEADY)

    def setHardwareID(self, name: str) -> None:
        self._hardware = name

    def add(self, name: str, task: Task) -> None:
        self._tasks[name] = task

    def update(self) -> None:
        message = DiagnosticArray()
        message.header.stamp = self._node.get_clock().now().to_msg()
        for name, task in self._tasks.items():
            status = DiagnosticStatusWrapper()
            status.name = f"{self._node.get_name()}: {name}"
            status.hardware_id = self._hardware
            task(status)
            message.status.append(status)
        self._publisher.publish(message)


def diagnostic_updater(node: Node) -> Any:
    """diagnostic_updater.Updater or the stand-in."""
    try:
        import diagnostic_updater as real
    except ImportError:
        logger.info("diagnostic_updater is not installed: using the built-in one")
        return FallbackUpdater(node)
    return real.Updater(node)
