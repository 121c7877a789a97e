"""Odometry of the tracker as ROS has it: pose in odom, twist in the frame of the robot, TF."""

import numpy as np
from jaxtyping import Float
from nav_msgs.msg import Odometry
from numpy import ndarray

from scal3r_ros.geometry.sim3 import invert_pose
from scal3r_ros.ros.conversions import odometry_message
from scal3r_ros.ros.frames import RobotFrame
from scal3r_ros.ros.map_odom import GuardedBroadcaster
from scal3r_ros.ros.map_publisher import ODOMETRY
from scal3r_ros.ros.parameters import AnyNode, value
from scal3r_ros.tracking.motion import velocity_of
from scal3r_ros.tracking.types import TrackedPose

MAX_STEP_S = 1.0  # between two images: beyond, their poses say nothing of a velocity


class OdometryPublisher:
    """One message for every pose, with the image's own stamp."""

    def __init__(self, node: AnyNode, robot: RobotFrame, broadcaster: GuardedBroadcaster) -> None:
        self.node, self.robot, self.broadcaster = node, robot, broadcaster
        self._publisher = node.create_publisher(Odometry, "odometry", ODOMETRY)
        self._last: tuple[int, Float[ndarray, "4 4"]] | None = None

    def close(self) -> None:
        self.node.destroy_publisher(self._publisher)
        self.broadcaster.close()

    def reset(self) -> None:
        self._last = None

    def publish(self, pose: TrackedPose, frame_id: str) -> None:
        """Nothing while the camera's place on the robot is unknown."""
        T_base_cam = self.robot.T_base_cam(frame_id)
        if T_base_cam is None:
            return
        T_odom_base = pose.T_odom_cam @ invert_pose(T_base_cam)
        frames = value(self.node, "odom_frame"), self.robot.child(frame_id)
        message = odometry_message(T_odom_base, pose.stamp_ns, *frames, pose.covariance)
        self._set_twist(message, T_odom_base, pose)
        self._publisher.publish(message)
        self.broadcaster.send(T_odom_base, pose.stamp_ns, *frames)

    def _set_twist(
        self, message: Odometry, T_odom_base: Float[ndarray, "4 4"], pose: TrackedPose
    ) -> None:
        """From the last two poses; unknown (zero, with a large covariance) without a last one."""
        last, self._last = self._last, (pose.stamp_ns, T_odom_base)
        seconds = (pose.stamp_ns - last[0]) * 1e-9 if last else np.inf
        twist = message.twist
        if last is None or not 0 < seconds <= MAX_STEP_S:
            twist.covariance = (1e6 * np.eye(6)).flatten().tolist()
            return
        linear, angular = np.split(velocity_of(last[1], T_odom_base, seconds), 2)
        v, w = twist.twist.linear, twist.twist.angular
        v.x, v.y, v.z = linear.tolist()
        w.x, w.y, w.z = angular.tolist()
        turn = np.zeros((6, 6))
        turn[:3, :3] = turn[3:, 3:] = T_odom_base[:3, :3].T
        twist.covariance = (turn @ pose.covariance @ turn.T / seconds**2).flatten().tolist()
