"""The robot's odometry at the stamp of an image: from the tracker, a topic or TF."""

from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float
from nav_msgs.msg import Odometry
from numpy import ndarray
from rclpy.qos import QoSProfile, ReliabilityPolicy
from tf2_msgs.msg import TFMessage

from scal3r_ros.geometry.sim3 import invert_pose
from scal3r_ros.ros.conversions import pose_to_matrix, stamp_to_ns
from scal3r_ros.ros.fallback.tf import DYNAMIC, STATIC, TransformError, TransformTree
from scal3r_ros.ros.frames import RobotFrame
from scal3r_ros.ros.listening import listen
from scal3r_ros.ros.parameters import AnyNode

# sensor data, deep enough for odometry that is much faster than images
SENSOR = QoSProfile(depth=200, reliability=ReliabilityPolicy.BEST_EFFORT)
KEPT = 4000  # poses by stamp, of the tracker
ODOM, BASE = "odom", "base"  # names within the tree of the topic


class OdometrySource:
    """T_odom_base at a stamp, interpolated where the source has other stamps than the camera."""

    def __init__(self, node: AnyNode, kind: str, odom_frame: str, robot: RobotFrame) -> None:
        self.kind, self.odom_frame, self.robot = kind, odom_frame, robot
        self._tracked: dict[int, Float[ndarray, "4 4"]] = {}
        self._tree = TransformTree()
        self._child = ""  # child_frame_id on the topic
        self._node = node
        self._subscriptions: list[Any] = []
        if kind == "tracker":
            self._listen(Odometry, "odometry", self._on_tracked, 50)
        elif kind == "topic":
            self._listen(Odometry, "odom", self._on_odometry, SENSOR)
        elif kind == "tf":
            self._listen(TFMessage, "/tf", self._tree.take, DYNAMIC)
            # of a robot whose odometry ends at another of its frames (base_footprint)
            self._listen(TFMessage, "/tf_static", partial(self._tree.take, static=True), STATIC)

    def close(self) -> None:
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def take(self, stamp_ns: int, T_odom_cam: Float[ndarray, "4 4"], camera_frame: str) -> None:
        """A tracker's pose that came another way than by topic."""
        T_base_cam = self.robot.T_base_cam(camera_frame)
        if T_base_cam is not None:
            self._remember(stamp_ns, T_odom_cam @ invert_pose(T_base_cam))

    def clear(self) -> None:
        """Time went back."""
        self._tracked.clear()
        self._tree.clear()

    @property
    def heard(self) -> bool:
        """Whether the tracker has told a pose."""
        return bool(self._tracked)

    def T_odom_base(self, stamp_ns: int, camera_frame: str) -> Float[ndarray, "4 4"] | None:
        """None where the source has not reached the stamp, or has forgotten it."""
        if self.kind == "tracker":
            return self._tracked.get(stamp_ns)
        base = BASE if self.kind == "topic" else self.robot.child(camera_frame)
        odom = ODOM if self.kind == "topic" else self.odom_frame
        try:
            return self._tree.lookup(odom, base, stamp_ns)
        except TransformError:
            return None

    def T_odom_cam(self, stamp_ns: int, camera_frame: str) -> Float[ndarray, "4 4"] | None:
        T_base_cam = self._T_base_cam(camera_frame)
        T_odom_base = self.T_odom_base(stamp_ns, camera_frame)
        return None if T_base_cam is None or T_odom_base is None else T_odom_base @ T_base_cam

    def _T_base_cam(self, camera_frame: str) -> Float[ndarray, "4 4"] | None:
        """Without base_frame a message of the topic says itself whose place it tells."""
        if self.kind == "topic" and not self.robot.base_frame:
            return self.robot.between(self._child, camera_frame)
        return self.robot.T_base_cam(camera_frame)

    def missing(self, camera_frame: str) -> str:
        """What is asked for, for a warning."""
        base = self.robot.child(camera_frame)
        if self._child and self._T_base_cam(camera_frame) is None:
            return (
                f"the transform {self.robot.base_frame or self._child} -> {camera_frame} on "
                f"/tf_static: publish it, or set base_frame to {camera_frame} where the odometry "
                "is that of the camera"
            )
        ways = {
            "tracker": "the tracker's odometry (is odometry_node running?)",
            "topic": f"odometry on {self._node.resolve_topic_name('odom')}",
            "tf": f"the transform {self.odom_frame} -> {base} on /tf",
        }
        return ways.get(self.kind, "odometry")

    def _listen(self, kind: Any, topic: str, callback: Any, qos: Any) -> None:
        self._subscriptions.append(listen(self._node, kind, topic, callback, qos))

    def _on_tracked(self, message: Odometry) -> None:
        self._remember(stamp_to_ns(message.header.stamp), pose_to_matrix(message.pose.pose))

    def _remember(self, stamp_ns: int, T_odom_base: Float[ndarray, "4 4"]) -> None:
        self._tracked[stamp_ns] = T_odom_base
        while len(self._tracked) > KEPT:
            del self._tracked[next(iter(self._tracked))]

    def _on_odometry(self, message: Odometry) -> None:
        T = pose_to_matrix(message.pose.pose)
        if not (message.child_frame_id or self.robot.base_frame):
            raise ValueError("it has no child_frame_id: set base_frame to the frame that it is of")
        self._child = message.child_frame_id
        if np.isfinite(T).all():
            self._tree.set(ODOM, BASE, stamp_to_ns(message.header.stamp), T)
