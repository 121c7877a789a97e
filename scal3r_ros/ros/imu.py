"""An inertial unit on the robot: what it says, in the axes of the camera."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Imu

from scal3r_ros.mapping.inertial import InertialLog
from scal3r_ros.ros.conversions import stamp_to_ns
from scal3r_ros.ros.frames import RobotFrame
from scal3r_ros.ros.listening import listen
from scal3r_ros.ros.parameters import AnyNode

PATIENCE_S, POLL_S = 0.1, 0.002
SENSOR = QoSProfile(depth=1000, reliability=ReliabilityPolicy.BEST_EFFORT)  # 200 Hz and more


class ImuInput:
    """Fills a log from the topic `imu`; which one is asked every time: a reset begins a new one."""

    def __init__(self, node: AnyNode, robot: RobotFrame, log: Callable[[], InertialLog]) -> None:
        self.node, self.robot, self.log = node, robot, log
        self.camera_frame = ""
        self._told = self._heard = False
        self._subscription: Any = listen(node, Imu, "imu", self._on_imu, SENSOR)

    def close(self) -> None:
        self.node.destroy_subscription(self._subscription)

    def wait_for(self, stamp_ns: int) -> None:
        """In a worker: an image may overtake the samples of its time, they get a moment."""
        end = time.monotonic() + PATIENCE_S
        while self._heard and not self.log().reaches(stamp_ns):
            time.sleep(POLL_S)
            self._heard = time.monotonic() < end  # who has fallen silent is not waited for again

    def _on_imu(self, message: Imu) -> None:
        R_cam_imu = self._R_cam_imu(message.header.frame_id)
        if R_cam_imu is None:
            return
        gyro, force = (
            R_cam_imu @ np.array([v.x, v.y, v.z])
            for v in (message.angular_velocity, message.linear_acceleration)
        )
        if np.isfinite([gyro, force]).all():
            self.log().add(stamp_to_ns(message.header.stamp), gyro, force)
            self._heard = True

    def _R_cam_imu(self, imu_frame: str) -> Float[ndarray, "3 3"] | None:
        if not self.camera_frame:
            return None
        T = self.robot.between(self.camera_frame, imu_frame)
        if T is None and not self._told:
            self._told = True
            self.node.get_logger().error(
                f"/tf_static does not tell {self.camera_frame} -> {imu_frame}: no use of imu"
            )
        return None if T is None else T[:3, :3]
