"""Where the camera sits on the robot: `base_frame` and its static transform to the camera."""

from functools import partial

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from tf2_msgs.msg import TFMessage

from scal3r_ros.ros.fallback.tf import STATIC, TransformError, TransformTree
from scal3r_ros.ros.listening import listen
from scal3r_ros.ros.parameters import AnyNode


class RobotFrame:
    """The child of the odom frame: `base_frame` where it is set, else the camera itself.

    Only /tf_static is read: a camera that moves on its robot is not supported.
    """

    def __init__(self, node: AnyNode, base_frame: str) -> None:
        self.node, self.base_frame = node, base_frame
        self._tree = TransformTree()
        self._told = False
        take = partial(self._tree.take, static=True)
        self._subscription = listen(node, TFMessage, "/tf_static", take, STATIC)

    def close(self) -> None:
        self.node.destroy_subscription(self._subscription)

    def between(self, target: str, source: str) -> Float[ndarray, "4 4"] | None:
        """T_target_source of two frames that are fixed on the robot, None where it is unknown."""
        if target == source:
            return np.eye(4)
        try:
            return self._tree.lookup(target, source, None)
        except TransformError:
            return None

    def child(self, camera_frame: str) -> str:
        return self.base_frame or camera_frame

    def T_base_cam(self, camera_frame: str) -> Float[ndarray, "4 4"] | None:
        """None, and a warning once, where the transform is not known yet."""
        if not self.base_frame or self.base_frame == camera_frame:
            return np.eye(4)
        try:
            return self._tree.lookup(self.base_frame, camera_frame, None)
        except TransformError as error:
            if not self._told:
                self._told = True
                self.node.get_logger().warning(
                    f"nothing is published below odom until /tf_static tells "
                    f"{self.base_frame} -> {camera_frame}: {error}"
                )
            return None
