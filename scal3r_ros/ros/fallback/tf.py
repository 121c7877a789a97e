"""tf2_ros's broadcaster where that is installed, else one of our own; transforms by time."""

import logging
from bisect import bisect_right
from collections import defaultdict
from typing import Any

import numpy as np
from geometry_msgs.msg import TransformStamped
from jaxtyping import Float
from numpy import ndarray
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from scal3r_ros.geometry.sim3 import interpolate
from scal3r_ros.ros.conversions import stamp_to_ns, transform_to_matrix

logger = logging.getLogger(__name__)

DYNAMIC = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
STATIC = QoSProfile(
    depth=100,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)


class TransformError(LookupError):
    """No transform; the message names the frames and what is known."""


class FallbackTransformBroadcaster:
    """As tf2_ros.TransformBroadcaster."""

    def __init__(self, node: Any) -> None:
        from tf2_msgs.msg import TFMessage

        self._message = TFMessage
        self._publisher = node.create_publisher(TFMessage, "/tf", DYNAMIC)

    def sendTransform(self, transform: TransformStamped) -> None:
        self._publisher.publish(self._message(transforms=[transform]))


class TransformTree:
    """Transforms by child frame and time: interpolates, composes, forgets after `cache_ns`."""

    def __init__(self, cache_ns: int = 60_000_000_000) -> None:
        self.cache_ns = cache_ns
        self._parents: dict[str, str] = {}
        self._stamps: dict[str, list[int]] = defaultdict(list)
        self._poses: dict[str, list[Float[ndarray, "4 4"]]] = defaultdict(list)
        self._static: set[str] = set()

    def clear(self) -> None:
        """Forgets everything that moves (after a time jump)."""
        for child in [c for c in self._parents if c not in self._static]:
            del self._parents[child], self._stamps[child], self._poses[child]

    def set(
        self,
        parent: str,
        child: str,
        stamp_ns: int,
        T_parent_child: Float[ndarray, "4 4"],
        *,
        static: bool = False,
    ) -> None:
        self._parents[child] = parent
        if static:
            self._static.add(child)
            self._stamps[child], self._poses[child] = [stamp_ns], [T_parent_child]
            return
        stamps, poses = self._stamps[child], self._poses[child]
        position = bisect_right(stamps, stamp_ns)
        stamps.insert(position, stamp_ns)
        poses.insert(position, T_parent_child)
        while stamps[-1] - stamps[0] > self.cache_ns:
            del stamps[0], poses[0]

    def take(self, message: Any, *, static: bool = False) -> None:
        """All transforms of a TFMessage."""
        for t in message.transforms:
            T, stamp_ns = transform_to_matrix(t.transform), stamp_to_ns(t.header.stamp)
            self.set(t.header.frame_id, t.child_frame_id, stamp_ns, T, static=static)

    def lookup(self, target: str, source: str, stamp_ns: int | None) -> Float[ndarray, "4 4"]:
        """T_target_source at a time, the newest where `stamp_ns` is None."""
        up_target, up_source = self._chain(target), self._chain(source)
        common = next((frame for frame in up_target if frame in up_source), None)
        if common is None:
            known = ", ".join(sorted({*self._parents, *self._parents.values()})) or "none"
            raise TransformError(f"{target} and {source} are not connected; frames: {known}")
        T_common_target = self._compose(up_target, common, stamp_ns)
        T_common_source = self._compose(up_source, common, stamp_ns)
        return np.linalg.inv(T_common_target) @ T_common_source

    def _chain(self, frame: str) -> list[str]:
        chain = [frame]
        while chain[-1] in self._parents and len(chain) < 1000:
            chain.append(self._parents[chain[-1]])
        return chain

    def _compose(
        self, chain: list[str], common: str, stamp_ns: int | None
    ) -> Float[ndarray, "4 4"]:
        T = np.eye(4)
        for frame in chain[: chain.index(common)]:
            T = self._at(frame, stamp_ns) @ T
        return T

    def _at(self, child: str, stamp_ns: int | None) -> Float[ndarray, "4 4"]:
        stamps, poses = self._stamps[child], self._poses[child]
        if child in self._static or stamp_ns is None:
            return poses[-1]
        position = bisect_right(stamps, stamp_ns)
        if position > 0 and stamps[position - 1] == stamp_ns:
            return poses[position - 1]
        if position in (0, len(stamps)):
            raise TransformError(
                f"{self._parents[child]} -> {child} is known from {stamps[0]} to {stamps[-1]} ns, "
                f"asked for {stamp_ns} ns"
            )
        before, after = stamps[position - 1], stamps[position]
        share = (stamp_ns - before) / (after - before)
        return interpolate(poses[position - 1], poses[position], share)


def transform_broadcaster(node: Any) -> Any:
    """tf2_ros.TransformBroadcaster or the stand-in."""
    try:
        from tf2_ros import TransformBroadcaster
    except ImportError:
        logger.info("tf2_ros is not installed: using the built-in transform broadcaster")
        return FallbackTransformBroadcaster(node)
    return TransformBroadcaster(node)
