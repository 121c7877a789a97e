"""A subscription whose reliability follows the publisher's."""

from collections.abc import Callable
from typing import Any

from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.topic_endpoint_info import TopicEndpointInfo

from scal3r_ros.ros.listening import listen
from scal3r_ros.ros.parameters import AnyNode
from scal3r_ros.ros.running import STEADY

RECHECK_S = 1.0  # publishers are looked at again while nothing comes


class FollowingSubscription:
    """auto: reliable when every publisher is, because large best-effort images do not arrive over
    Fast DDS at its default settings."""

    def __init__(
        self,
        node: AnyNode,
        kind: Any,
        topic: str,
        callback: Callable[[Any], None],
        depth: int,
        *,
        wanted: str = "auto",
    ) -> None:
        """`wanted`: auto, reliable or best_effort."""
        self.node, self._kind, self._topic, self._callback = node, kind, topic, callback
        self._depth, self._wanted = depth, wanted
        self.name = node.resolve_topic_name(topic)
        self._reliable = wanted == "reliable" or (wanted == "auto" and self._all_reliable)
        self._silent = True  # since the publishers were looked at last
        self._subscription = self._subscribed()
        self._timer = node.create_timer(RECHECK_S, self._recheck, clock=STEADY)

    @property
    def publishers(self) -> list[TopicEndpointInfo]:
        return self.node.get_publishers_info_by_topic(self.name)

    @property
    def unreliable(self) -> bool:
        """Whether a publisher is."""
        return not self._all_reliable

    @property
    def _all_reliable(self) -> bool:
        kinds = [p.qos_profile.reliability for p in self.publishers]
        return all(kind == ReliabilityPolicy.RELIABLE for kind in kinds)

    def describe(self) -> str:
        """Topic and publishers, for people."""
        publishers = self.publishers
        kinds = ", ".join(p.qos_profile.reliability.name for p in publishers) or "none"
        return f"{self.name}: {len(publishers)} publishers ({kinds})"

    def close(self) -> None:
        self.node.destroy_timer(self._timer)
        self.node.destroy_subscription(self._subscription)

    def _subscribed(self) -> Any:
        policy = ReliabilityPolicy.RELIABLE if self._reliable else ReliabilityPolicy.BEST_EFFORT
        qos = QoSProfile(depth=self._depth, reliability=policy)
        return listen(self.node, self._kind, self._topic, self._heard, qos)

    def _heard(self, message: Any) -> None:
        self._silent = False
        self._callback(message)

    def _recheck(self) -> None:
        """A publisher that came back may be of another kind. Without one nothing changes."""
        silent, self._silent = self._silent, True
        if self._wanted != "auto" or not silent or not self.publishers:
            return
        if self._reliable != self._all_reliable:
            self._reliable = not self._reliable
            self.node.destroy_subscription(self._subscription)
            self._subscription = self._subscribed()
