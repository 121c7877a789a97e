"""odometry_node, the fast lane: a pose of every image against the newest mapped keyframe.

It lives on when mapping_node dies: then it coasts on its last keyframe and says so.
"""

import sys
import threading
import time
import traceback
from typing import Any

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from jaxtyping import Float
from numpy import ndarray
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from scal3r_ros.geometry.keyframe import Keyframe as MappedKeyframe
from scal3r_ros.mapping.inertial import InertialLog
from scal3r_ros.mapping.types import Frame
from scal3r_ros.ros.conversions import (
    header,
    image_to_float,
    image_to_rgb,
    numbers_to_K,
    stamp_to_ns,
)
from scal3r_ros.ros.fallback.diagnostics import DiagnosticStatusWrapper, diagnostic_updater
from scal3r_ros.ros.frame_queue import FrameCounters, FrameQueue
from scal3r_ros.ros.frames import RobotFrame
from scal3r_ros.ros.health import Rates
from scal3r_ros.ros.imu import ImuInput
from scal3r_ros.ros.interfaces import Keyframe, Status
from scal3r_ros.ros.listening import listen
from scal3r_ros.ros.map_odom import GuardedBroadcaster
from scal3r_ros.ros.map_publisher import LATCHED
from scal3r_ros.ros.odometry_publisher import OdometryPublisher
from scal3r_ros.ros.parameters import ODOMETRY as PARAMETERS
from scal3r_ros.ros.parameters import declare, value
from scal3r_ros.ros.running import STEADY, said, spin, wind_down
from scal3r_ros.ros.subscriptions import ImageInput
from scal3r_ros.tracking.background import BackgroundTracker
from scal3r_ros.tracking.types import TrackerConfig

MAX_PENDING = 64  # images; beyond it every second one goes, counted
STATUS_PERIOD_S = 0.5
SWITCH_S = 0.0005  # that a thread may keep the interpreter from the one that tracks


class OdometryNode(LifecycleNode):
    def __init__(self) -> None:
        super().__init__("odometry_node")
        cv2.setNumThreads(1)  # an image is small: threads would wait for each other
        sys.setswitchinterval(SWITCH_S)
        declare(self, PARAMETERS)
        self.counters = FrameCounters()
        self.tracked = self.coasted = 0
        self.state = Status.UNCONFIGURED
        self._session = -1
        self._resets = 0  # that wait for the worker, who owns the tracker
        self._keyframe: MappedKeyframe | None = None
        self._unmetric = False  # the newest keyframe is withheld: it is not in metres yet
        self._newest_ns = -1  # stamp of the last image that the worker had since a reset
        self._image_s = time.monotonic()  # when one came last
        self._trouble = ""  # why tracking began anew, until it tracks
        self._told: set[str] = set()
        self._K: Float[ndarray, "3 3"] | None = None  # of the newest keyframe
        self._rates = Rates()
        self.odometry: OdometryPublisher | None = None
        self.updater = diagnostic_updater(self)
        self.updater.setHardwareID("cpu")
        self.updater.add("tracking", self._diagnose)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._worker: threading.Thread | None = None

    @said
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.frames = FrameQueue(MAX_PENDING, self.counters)
        self._status = self.create_publisher(Status, "odometry_status", LATCHED)
        self.robot = RobotFrame(self, value(self, "base_frame"))
        self.turns = InertialLog()
        self.imu = (
            ImuInput(self, self.robot, lambda: self.turns) if value(self, "use_imu") else None
        )
        self.tracker = BackgroundTracker(TrackerConfig(), self.turns.turn if self.imu else None)
        self.odometry = OdometryPublisher(self, self.robot, GuardedBroadcaster(self))
        self.state = Status.WAITING
        return TransitionCallbackReturn.SUCCESS

    @said
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.destroy_publisher(self._status)
        assert self.odometry is not None
        self.odometry.close()
        self.tracker.close()
        if self.imu is not None:
            self.imu.close()
        self.robot.close()
        self.state = Status.UNCONFIGURED
        return super().on_cleanup(state)

    @said
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._start_again()  # what was tracked before a pause is long ago
        self.images = ImageInput(self, self._on_frame, self.counters, on_jump=self._start_again)
        self._keyframes = listen(self, Keyframe, "keyframe", self._on_keyframe, LATCHED)
        self._stop.clear()
        self._worker = threading.Thread(target=self._work, name="tracker", daemon=True)
        self._worker.start()
        self._timer = self.create_timer(STATUS_PERIOD_S, self._publish_status, clock=STEADY)
        return super().on_activate(state)

    @said
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._rest()
        self.destroy_timer(self._timer)
        self._publish_status()
        self.images.close()
        self.destroy_subscription(self._keyframes)
        return super().on_deactivate(state)

    @said
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        return wind_down(self, state)

    def close(self) -> None:
        """At the end: a thread in native code when the interpreter goes would abort the process."""
        self._rest()
        if self.state != Status.UNCONFIGURED:
            self.tracker.close()

    def _rest(self) -> None:
        self._stop.set()
        if self._worker is not None:
            self._worker.join(timeout=5.0)
            self._worker = None

    def _start_again(self) -> None:
        """Time went back, or images were missed: nothing that was tracked is known any more."""
        self.frames.clear()
        self.turns.clear()
        with self._lock:
            self._keyframe = None
            self._resets += 1
        self.state = Status.WAITING

    def _on_frame(self, frame: Frame, frame_id: str) -> None:
        self.frame_id, self._image_s = frame_id, time.monotonic()
        if self.imu is not None:
            self.imu.camera_frame = frame_id
        self.frames.put(frame)

    def _on_keyframe(self, message: Keyframe) -> None:
        keyframe = MappedKeyframe(
            index=message.keyframe_id,
            stamp_ns=stamp_to_ns(message.header.stamp),
            image=image_to_rgb(message.image),
            depth=image_to_float(message.depth),
            K=numbers_to_K(message.k),
            T_map_cam=np.array(message.t_map_cam).reshape(4, 4),
            unit=message.unit,
        )
        with self._lock:
            if message.map_session != self._session:
                self._session = message.map_session
                self._resets += 1
            self._unmetric = value(self, "require_metric") and not message.metric
            if not self._unmetric:  # the tracker begins with the first one that it is told of
                self._keyframe = keyframe

    def _work(self) -> None:
        while not self._stop.is_set():
            frame = self.frames.get(0.1)
            try:
                self._take(frame)
            except Exception as error:  # a robot that moves by it needs the next pose
                self._trouble = f"tracking began anew: {type(error).__name__}: {error}"
                if self._trouble not in self._told:
                    self._told.add(self._trouble)
                    self.get_logger().error(f"{self._trouble}\n{traceback.format_exc()}")
                self._start_again()

    def _take(self, frame: Frame | None) -> None:
        """The keyframe that came last, then an image."""
        with self._lock:
            resets, self._resets = self._resets, 0
            self._newest_ns = -1 if resets else self._newest_ns
            keyframe = self._keyframe
            if keyframe is not None and keyframe.stamp_ns > self._newest_ns:
                keyframe = None  # it waits for its image, or is of a time that was taken back
            else:
                self._keyframe = None
        if resets:
            self.tracker.reset()
            assert self.odometry is not None
            self.odometry.reset()
        if keyframe is not None:
            self.tracker.set_keyframe(keyframe)
            self._K = keyframe.K
        if frame is not None and self.frames.is_current():
            self._newest_ns = frame.stamp_ns
            self._track(frame)

    def _track(self, frame: Frame) -> None:
        K = frame.K if frame.K is not None else self._K
        if K is None:
            return  # neither camera_info nor a keyframe has told the intrinsics yet
        if self.imu is not None:
            self.imu.wait_for(frame.stamp_ns)
        pose = self.tracker.track(frame.image, K, frame.stamp_ns)
        if pose is not None:
            assert self.odometry is not None
            self.tracked += 1
            self._trouble = ""
            self.coasted += pose.state != "tracking"
            self.state = Status.TRACKING if pose.state == "tracking" else Status.DEGRADED
            self.odometry.publish(pose, self.frame_id)

    def _diagnose(self, status: Any) -> Any:
        if self.odometry is None or self._worker is None:
            status.summary(DiagnosticStatus.WARN, "not active")
        elif self.odometry.broadcaster.rival:
            status.summary(DiagnosticStatus.ERROR, self.odometry.broadcaster.rival)
        elif self._trouble:
            status.summary(DiagnosticStatus.ERROR, self._trouble)
        elif self._silent:
            silent_s = time.monotonic() - self._image_s
            status.summary(DiagnosticStatus.WARN, f"no image for {silent_s:.0f} s")
        elif self.state == Status.DEGRADED:
            status.summary(DiagnosticStatus.WARN, "coasting: too little is seen")
        elif self.state == Status.WAITING and self._unmetric:
            status.summary(DiagnosticStatus.WARN, "waiting for metres: require_metric is set")
        elif self.state == Status.WAITING:
            status.summary(DiagnosticStatus.OK, "waiting for images and the first keyframe")
        else:
            status.summary(DiagnosticStatus.OK, "tracking")
        status.add("images per second", f"{self._rates(self.counters)[0]:.2f}")
        status.add("tracked", str(self.tracked))
        status.add("coasted", str(self.coasted))
        status.add("keyframes given up", str(self.tracker.given_up))
        status.add("dropped, overload", str(self.counters.dropped_overload))
        status.add("dropped, invalid", str(self.counters.dropped_invalid))
        return status

    @property
    def _silent(self) -> bool:
        return time.monotonic() - self._image_s > value(self, "watchdog_period")

    def _publish_status(self) -> None:
        told = self._diagnose(DiagnosticStatusWrapper())
        state = Status.DEGRADED if self._silent and self.state == Status.TRACKING else self.state
        self._status.publish(
            Status(
                header=header(self.get_clock().now().nanoseconds, value(self, "odom_frame")),
                state=state if self._worker is not None else Status.PAUSED,
                input_rate=self._rates(self.counters)[0],
                message="" if told.level == DiagnosticStatus.OK else told.message,
                frames_received=self.counters.received,
                frames_used=self.tracked,
                frames_dropped_overload=self.counters.dropped_overload,
                frames_dropped_invalid=self.counters.dropped_invalid,
                pending_frames=len(self.frames),
            )
        )


def main() -> None:
    spin(OdometryNode)


if __name__ == "__main__":
    main()
