"""What belongs to the robot, not to the scene: painted over before anything looks at an image."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from numpy import ndarray
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from scal3r_ros.data.encodings import EncodingError
from scal3r_ros.data.sequence import Undistorter
from scal3r_ros.ros.conversions import image_to_rgb
from scal3r_ros.ros.fallback.tf import STATIC
from scal3r_ros.ros.listening import listen
from scal3r_ros.ros.parameters import AnyNode

STREAM = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)  # fits any publisher
COARSE = 16  # pixels of the image a pixel of the paint


class Mask:
    """The newest image of `mask_topic` (mono8, 0 = not of the scene), stretched to the camera's."""

    def __init__(self, node: AnyNode, topic: str, refuse: Callable[[str], None]) -> None:
        self.node, self._refuse = node, refuse
        self._scene: Bool[ndarray, "h w"] | None = None
        self._sized: dict[Any, Bool[ndarray, "h w"]] = {}  # as the images are
        self._subscriptions = []
        if topic:  # latched ones and streams alike
            self._subscriptions = [
                listen(node, Image, topic, self._on_mask, qos) for qos in (STATIC, STREAM)
            ]

    @property
    def awaited(self) -> bool:
        """A mask was asked for and none has come: images would show the robot."""
        return bool(self._subscriptions) and self._scene is None

    def close(self) -> None:
        for subscription in self._subscriptions:
            self.node.destroy_subscription(subscription)

    def _on_mask(self, message: Image) -> None:
        try:
            self._scene = image_to_rgb(message)[..., 0] > 0
        except EncodingError as error:
            self._refuse(f"mask: {error}")
            return
        self._sized = {}

    def scene(
        self, size: tuple[int, ...], undistort: Undistorter | None = None
    ) -> Bool[ndarray, "h w"] | None:
        """True where the scene is seen, for images of (height, width); None without a mask."""
        if self._scene is None:
            return None
        key = (size, undistort)
        if key not in self._sized:
            grey = self._scene.astype(np.uint8) * 255
            grey = cv2.resize(grey, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
            if undistort is not None:
                grey = undistort(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB))[..., 0]
            self._sized[key] = np.asarray(grey) == 255
        return self._sized[key]

    def hide(self, image: UInt8[ndarray, "h w 3"]) -> UInt8[ndarray, "h w 3"]:
        scene = self.scene(image.shape[:2])
        return image if scene is None else painted_over(image, scene)


def painted_over(
    image: UInt8[ndarray, "h w 3"], scene: Bool[ndarray, "h w"]
) -> UInt8[ndarray, "h w 3"]:
    """The colours of the scene run smoothly into what hides it: no corner stands still there."""
    if scene.all():
        return image
    grey = scene.astype(np.uint8) * 255
    size = (max(2, image.shape[1] // COARSE), max(2, image.shape[0] // COARSE))
    seen = cv2.bitwise_and(image, image, mask=grey)
    colours = cv2.resize(seen, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    shares = cv2.resize(grey, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    paint, covered = np.zeros_like(colours), np.zeros_like(shares)
    for sigma in (1, 2, 4, 8, 16, 32):  # the nearest colours that there are
        near = cv2.GaussianBlur(shares, (0, 0), sigma)
        blurred = cv2.GaussianBlur(colours, (0, 0), sigma) / np.maximum(near, 1e-6)[..., None]
        fresh = np.clip(4 * near, 0, 1) * (1 - covered)
        paint += fresh[..., None] * blurred
        covered += fresh
    paint = np.clip(paint / np.maximum(covered, 1e-6)[..., None], 0, 255).astype(np.uint8)
    paint = cv2.resize(paint, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    result = image.copy()
    cv2.copyTo(paint, 255 - grey, result)
    return result
