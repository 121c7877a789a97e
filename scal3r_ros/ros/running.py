"""How every node starts and ends: one executor thread, clean shutdown on SIGINT and SIGTERM."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

import rclpy
from rclpy.clock import Clock, ClockType  # pyright: ignore[reportPrivateImportUsage]
from rclpy.exceptions import ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from scal3r_ros.mapping.process import one_blas_thread
from scal3r_ros.ros.parameters import value

SIGNALS_S = 0.1  # how often a waiting executor looks whether it should stop
STEADY = Clock(clock_type=ClockType.STEADY_TIME)  # timers go on while a bag's clock stands still


def said(transition: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """A transition whose exception is logged: rclpy turns it into a bare ERROR."""

    @wraps(transition)
    def logged(node: Any, state: Any) -> Any:
        try:
            return transition(node, state)
        except Exception as error:
            name = transition.__name__
            node.get_logger().fatal(f"{name} failed: {type(error).__name__}: {error}")
            raise

    return logged


def wind_down(node: Any, state: LifecycleState) -> TransitionCallbackReturn:
    """`on_shutdown` of a lifecycle node: whatever the `state` it comes from has going is ended."""
    if state.label == "active":
        node.on_deactivate(state)
    if state.label in ("active", "inactive"):
        node.on_cleanup(state)
    return TransitionCallbackReturn.SUCCESS


def stand_back() -> None:
    """This thread, and those that it starts from here on, run when nobody else wants to: images
    interrupt them at once, where a nice value would let them finish their slice (Linux)."""
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def spin(make: Callable[[], Node]) -> None:
    """A single-threaded executor: callbacks only convert and enqueue, workers do the rest.

    SIGINT and SIGTERM end it between two callbacks; rclpy's own handlers would take the context
    away from a worker that has a result to publish.
    """
    one_blas_thread()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    stop = threading.Event()
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, lambda *_: stop.set())
    try:
        node = make()
    except (ParameterException, OSError) as error:
        print(f"{make.__name__}: {error}", file=sys.stderr)
        rclpy.shutdown()
        sys.exit(2)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        if isinstance(node, LifecycleNode) and value(node, "autostart"):
            start(node)
        while rclpy.ok() and not stop.is_set():
            executor.spin_once(timeout_sec=SIGNALS_S)
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
