"""mapping_node, the slow lane: images become chunks, chunks a map that corrects itself.

Callbacks convert and enqueue; one worker thread owns the mapper and the GPU. A reset raises an
epoch number, and results of older epochs are dropped, so no old map comes back.
"""

import threading
import time
from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from nav_msgs.msg import Odometry
from numpy import ndarray
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from std_srvs.srv import Trigger

from scal3r_ros.geometry.sim3 import invert_pose
from scal3r_ros.mapping.config import ConfigError
from scal3r_ros.mapping.mapper import Mapper
from scal3r_ros.mapping.types import Frame, MapUpdate
from scal3r_ros.ros.conversions import (
    matrix_to_transform,
    pose_to_matrix,
    stamp_to_ns,
)
from scal3r_ros.ros.fallback.tf import transform_broadcaster
from scal3r_ros.ros.frames import RobotFrame
from scal3r_ros.ros.interfaces import Status
from scal3r_ros.ros.map_publisher import MapPublisher
from scal3r_ros.ros.parameters import MAPPING, declare, mapper_config, value
from scal3r_ros.ros.running import STEADY, spin
from scal3r_ros.ros.subscriptions import FrameCounters, FrameQueue, ImageInput

OK, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
ODOMETRY_KEPT = 4000  # poses by stamp
STATUS_PERIOD_S = 0.5
LOAD_PERIOD_S = 30.0


class MappingNode(LifecycleNode):
    def __init__(self) -> None:
        super().__init__("mapping_node")
        declare(self, MAPPING)
        self.counters = FrameCounters()
        self.state = Status.UNCONFIGURED
        self.message = ""
        self.mapper: Mapper | None = None
        self._odometry: dict[int, Float[ndarray, "4 4"]] = {}
        self._epoch = 0
        self._commands: list[Callable[[], None]] = []
        self._worker: threading.Thread | None = None
        self._stop = threading.Event()
        self._paused = False
        self._last_image_s = self._mapped_s = time.monotonic()
        self._warned = False
        self._dropped_told, self._load_told_s = 0, -LOAD_PERIOD_S

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Loads the weights: what is wrong with them is said here, in one line."""
        from scal3r_ros.mapping.predictor import NetworkPredictor

        try:
            config = mapper_config(self)
            predictor = NetworkPredictor.load(
                value(self, "model"),
                value(self, "checkpoint") or None,
                device=value(self, "device"),
                precision=value(self, "precision"),
                settings=config.network,
            )
        except (ConfigError, ValueError, OSError) as error:
            self.get_logger().error(f"cannot configure: {error}")
            self.state, self.message = Status.ERROR, str(error)
            return FAILURE
        self.device, self.gpu_memory = str(predictor.device), predictor.gpu_memory
        self.mapper = Mapper(predictor, config)
        self.frames = FrameQueue(value(self, "max_pending_frames"), self.counters)
        self.robot = RobotFrame(self, value(self, "base_frame"))
        self.maps = MapPublisher(self, self.mapper, self.robot)
        self.broadcaster = transform_broadcaster(self)
        self.T_map_odom = np.eye(4)
        for name, callback in (
            ("reset", self._on_reset),
            ("pause", self._on_pause),
            ("resume", self._on_resume),
            ("flush", self._on_flush),
        ):
            self.create_service(Trigger, f"~/{name}", callback)
        self.state = Status.WAITING
        return OK

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.images = ImageInput(
            self,
            self._on_frame,
            self.counters,
            transport=value(self, "image_transport"),
            reliability=value(self, "image_reliability"),
            depth=value(self, "image_queue_depth"),
            on_jump=None if value(self, "on_time_jump") == "ignore" else self._start_again,
        )
        if value(self, "odom_source") == "tracker":
            self.create_subscription(Odometry, "odometry", self._on_odometry, 50)
        self._stop.clear()
        self._worker = threading.Thread(target=self._work, name="mapper", daemon=True)
        self._worker.start()
        self._timers = [
            self.create_timer(STATUS_PERIOD_S, self.publish_status, clock=STEADY),
            self.create_timer(
                1 / value(self, "tf_publish_rate"), self._publish_map_odom, clock=STEADY
            ),
        ]
        self.get_logger().info(
            f"mapping on {self.device}: {self.images.describe()}; frames "
            f"{value(self, 'map_frame')} -> {value(self, 'odom_frame')} -> "
            f"{value(self, 'base_frame') or 'the frame of the images'}"
        )
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.close()
        for timer in self._timers:
            self.destroy_timer(timer)
        self.images.close()
        return super().on_deactivate(state)

    def close(self) -> None:
        """Ends the worker after the chunk it is in."""
        self._stop.set()
        if self._worker is not None:
            self._worker.join(timeout=20.0)
            self._worker = None

    def _on_frame(self, frame: Frame, frame_id: str) -> None:
        self._last_image_s = time.monotonic()
        self._warned = False
        if self.state == Status.WAITING:
            self.state = Status.INITIALIZING
        if not self._paused:
            self.maps.frame_id = frame_id
            self.frames.put(frame)

    def _on_odometry(self, message: Odometry) -> None:
        self._odometry[stamp_to_ns(message.header.stamp)] = pose_to_matrix(message.pose.pose)
        while len(self._odometry) > ODOMETRY_KEPT:
            del self._odometry[next(iter(self._odometry))]

    def _work(self) -> None:
        """The worker: maps what waits, flushes when the camera pauses."""
        while not self._stop.is_set():
            frame = self.frames.get(0.1)
            try:
                while self._commands:
                    self._commands.pop(0)()
                if frame is not None and not self.frames.is_current():
                    continue  # a reset came in between
                if frame is not None:
                    self._map(lambda frame=frame: self.mapper.add_frame(frame))
                elif self._idle_for(value(self, "max_chunk_wait")):
                    self._map(self.mapper.flush)
            except Exception as error:  # the thread must not die silently
                self.state, self.message = Status.ERROR, f"{type(error).__name__}: {error}"
                self.get_logger().fatal(f"mapping stopped: {self.message}")
                raise

    def _idle_for(self, seconds: float) -> bool:
        """No image came and none was mapped: a camera may wait for us while a chunk takes long."""
        return time.monotonic() - max(self._last_image_s, self._mapped_s) > seconds

    def _level(self) -> None:
        """Before the first chunk: the map's axes are those of the robot, where it is known."""
        T_base_cam = self.robot.T_base_cam(self.maps.frame_id)
        if value(self, "base_frame") and T_base_cam is not None and not self.mapper.submaps:
            self.mapper.R_map_first = T_base_cam[:3, :3]

    def _map(self, action: Callable[[], list[MapUpdate]]) -> None:
        epoch = self._epoch
        self._level()
        counters = self.mapper.counters
        before = counters.chunks_discarded, counters.interruptions
        updates = action()
        if updates:
            self._mapped_s = time.monotonic()
        if epoch != self._epoch:
            return  # reset while this chunk was in the network
        for update in updates:
            self.state = Status.TRACKING
            self.maps.publish(update)
            self._correct_odometry()
        if counters.chunks_discarded > before[0]:
            self.state = Status.LOST
        elif counters.interruptions > before[1]:
            self.state = Status.DEGRADED
        self.message = self.mapper.trouble

    def _correct_odometry(self) -> None:
        """map -> odom at the newest keyframe whose odometry is known."""
        poses = self.mapper.keyframe_poses()
        submap = self.mapper.submaps[-1]
        if value(self, "odom_source") == "none":
            self.maps.publish_odometry(submap, self.broadcaster)
            return
        T_base_cam = self.robot.T_base_cam(self.maps.frame_id)
        if T_base_cam is None:
            return
        for index, stamp_ns in reversed(
            list(zip(submap.frame_indices, submap.stamps_ns, strict=True))
        ):
            if stamp_ns in self._odometry:
                T_odom_cam = self._odometry[stamp_ns] @ T_base_cam
                self.T_map_odom = poses[index] @ invert_pose(T_odom_cam)
                return

    def _publish_map_odom(self) -> None:
        self._watch()
        self._watch_load()
        if not value(self, "publish_tf") or not self.mapper.submaps:
            return
        ahead_ns = int(value(self, "tf_tolerance") * 1e9)
        stamp_ns = self.get_clock().now().nanoseconds + ahead_ns
        frames = value(self, "map_frame"), value(self, "odom_frame")
        self.broadcaster.sendTransform(matrix_to_transform(self.T_map_odom, stamp_ns, *frames))

    def _watch_load(self) -> None:
        """Says that images are thinned, when it begins and every 30 s while it lasts."""
        dropped = self.counters.dropped_overload
        if dropped == self._dropped_told or time.monotonic() - self._load_told_s < LOAD_PERIOD_S:
            return
        seconds = self.mapper.counters.total_seconds
        self.get_logger().warning(
            f"mapping is slower than the camera: {dropped} images thinned so far; a chunk takes "
            f"{np.mean(seconds[-5:]) if seconds else float('nan'):.2f} s"
        )
        self._dropped_told, self._load_told_s = dropped, time.monotonic()

    def _watch(self) -> None:
        if self._warned or not self._idle_for(value(self, "watchdog_period")):
            return
        self._warned = True
        seen = "images stopped" if self.counters.received else "no images yet"
        hint = "" if self.images.publishers() else "; is the topic right (remap image:=...)?"
        self.get_logger().warning(f"{seen} on {self.images.describe()}{hint}")

    def publish_status(self) -> None:
        self.maps.publish_status(self)

    @property
    def pending(self) -> int:
        return len(self.frames)

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._start_again()
        response.success, response.message = True, "a new map session starts"
        return response

    def _start_again(self) -> None:
        """Clears memory, map and trajectory; a chunk in flight is dropped."""
        self._epoch += 1
        self.frames.clear()
        self._odometry.clear()
        self._commands.append(self._reset)

    def _reset(self) -> None:
        self.mapper.reset()
        self.maps.reset()
        self.T_map_odom = np.eye(4)
        self.state = Status.WAITING

    def _on_pause(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._paused, self.state = True, Status.PAUSED
        response.success = True
        return response

    def _on_resume(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._paused = False
        self.state = Status.TRACKING if self.mapper.submaps else Status.WAITING
        response.success = True
        return response

    def _on_flush(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Maps what is pending now, as a shorter chunk."""
        self._commands.append(lambda: self._map(self.mapper.flush))
        response.success = True
        return response


def main() -> None:
    spin(MappingNode)


if __name__ == "__main__":
    main()
