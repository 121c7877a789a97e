"""map -> odom: the only transform that the mapper may move (REP 105)."""

import time
from collections import deque
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from tf2_msgs.msg import TFMessage

from scal3r_ros.geometry.sim3 import interpolate
from scal3r_ros.ros.conversions import matrix_to_transform, stamp_to_ns
from scal3r_ros.ros.fallback.tf import DYNAMIC, transform_broadcaster
from scal3r_ros.ros.listening import listen
from scal3r_ros.ros.parameters import AnyNode, value

OWN_STAMPS = 2000  # remembered, to tell another publisher's from ours


class GuardedBroadcaster:
    """Broadcasts one child frame, and stops where somebody else does so too."""

    def __init__(self, node: AnyNode, *, guard: bool = True) -> None:
        self.node = node
        self.rival = ""  # what another publisher was heard to say
        self._broadcaster = transform_broadcaster(node)
        self._own: deque[tuple[str, str, int]] = deque(maxlen=OWN_STAMPS)
        self._children: set[str] = set()
        self._heard = None
        if guard:
            self._heard = listen(node, TFMessage, "/tf", self._on_transforms, DYNAMIC)

    def close(self) -> None:
        if self._heard is not None:
            self.node.destroy_subscription(self._heard)

    def send(
        self, T_parent_child: Float[ndarray, "4 4"], stamp_ns: int, parent: str, child: str
    ) -> None:
        if self.rival or not value(self.node, "publish_tf"):
            return
        self._own.append((parent, child, stamp_ns))
        self._children.add(child)
        self._broadcaster.sendTransform(
            matrix_to_transform(T_parent_child, stamp_ns, parent, child)
        )

    def _on_transforms(self, message: TFMessage) -> None:
        for t in message.transforms:
            key = (t.header.frame_id, t.child_frame_id, stamp_to_ns(t.header.stamp))
            if t.child_frame_id in self._children and key not in self._own and not self.rival:
                self.rival = f"two publishers of {t.header.frame_id} -> {t.child_frame_id}"
                self.node.get_logger().error(
                    f"{self.rival}: this node stops; set publish_tf:=false, or base_frame and "
                    "odom_source as docs/frames.md says"
                )


class MapToOdom:
    """Repeated at a fixed rate, a little ahead of now; a correction may come in gently."""

    def __init__(self, node: AnyNode, broadcaster: GuardedBroadcaster) -> None:
        self.node, self.broadcaster = node, broadcaster
        self.known = False
        self._from = self._to = np.eye(4)
        self._began_s = 0.0

    def reset(self) -> None:
        self.known, self._from, self._to = False, np.eye(4), np.eye(4)

    def set(self, T_map_odom: Float[ndarray, "4 4"]) -> None:
        self._from = self.now() if self.known else T_map_odom
        self._to, self._began_s, self.known = T_map_odom, time.monotonic(), True

    def now(self) -> Float[ndarray, "4 4"]:
        seconds = value(self.node, "correction_blend_time")
        if seconds <= 0:
            return self._to
        share = (time.monotonic() - self._began_s) / seconds
        return interpolate(self._from, self._to, min(share, 1.0))

    def publish(self) -> None:
        ahead_ns = int(value(self.node, "tf_tolerance") * 1e9)
        stamp_ns = self.node.get_clock().now().nanoseconds + ahead_ns
        names: tuple[Any, Any] = value(self.node, "map_frame"), value(self.node, "odom_frame")
        self.broadcaster.send(self.now(), stamp_ns, *names)
