"""Subscriptions that bad messages cannot end."""

from collections.abc import Callable
from typing import Any

import cv2

from scal3r_ros.ros.parameters import AnyNode

MOST_SAID = 20  # different complaints about one topic


def listen(node: AnyNode, kind: Any, topic: str, callback: Callable[[Any], None], qos: Any) -> Any:
    """A subscription. What the callback refuses with a ValueError, OpenCV refuses, or cannot be
    stored (OSError), is dropped and said once, with the topic: other people's messages may be
    malformed."""
    told: set[str] = set()

    def heard(message: Any) -> None:
        try:
            callback(message)
        except (ValueError, OSError, cv2.error) as error:
            text = f"a message on {node.resolve_topic_name(topic)} is dropped: {error}"
            if text not in told and len(told) < MOST_SAID:
                told.add(text)
                node.get_logger().error(text)

    return node.create_subscription(kind, topic, heard, qos)
