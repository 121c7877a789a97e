"""How every node starts and ends: one executor thread, clean shutdown on SIGINT and SIGTERM."""

import signal
from collections.abc import Callable
from typing import Any

import rclpy
from rclpy.clock import Clock, ClockType  # pyright: ignore[reportPrivateImportUsage]
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.node import Node

from scal3r_ros.ros.parameters import value

STEADY = Clock(clock_type=ClockType.STEADY_TIME)  # timers go on while a bag's clock stands still


def spin(make: Callable[[], Node]) -> None:
    """A single-threaded executor: callbacks only convert and enqueue, workers do the rest."""
    rclpy.init()
    signal.signal(signal.SIGTERM, _interrupt)
    node = make()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        if isinstance(node, LifecycleNode) and value(node, "autostart"):
            start(node)
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass  # asked to stop: not an error
    finally:
        close: Any = getattr(node, "close", None)
        if close is not None:
            close()
        executor.shutdown()
        node.destroy_node()
        if rclpy.ok():
            rclpy.shutdown()


def start(node: LifecycleNode) -> None:
    """Configure and activate, so that a plain launch Node works."""
    for transition in (node.trigger_configure, node.trigger_activate):
        if transition() != TransitionCallbackReturn.SUCCESS:
            node.get_logger().error("could not start; see the message above")
            return


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
