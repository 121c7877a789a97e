"""Which images become keyframes: enough motion since the last one, none at a standstill."""

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from scal3r_ros.mapping.config import KeyframeConfig
from scal3r_ros.mapping.types import Frame

WIDTH = 320  # pixels at which motion is measured
CORNERS = 150


class KeyframeGate:
    """Median optical flow between the last keyframe and each image."""

    def __init__(self, config: KeyframeConfig) -> None:
        self.config = config
        self.reset()

    def reset(self) -> None:
        self._stamp_ns: int | None = None
        self._image = np.zeros((0, 0), np.uint8)
        self._corners = np.zeros((0, 1, 2), np.float32)

    def accept(self, frame: Frame) -> bool:
        """True where the frame is a keyframe, which it then is for the frames after it."""
        grey = small_grey(frame.image)
        if self._stamp_ns is None or grey.shape != self._image.shape or self._moved(frame, grey):
            self._stamp_ns, self._image = frame.stamp_ns, grey
            self._corners = find_corners(grey)
            return True
        return False

    def _moved(self, frame: Frame, grey: UInt8[ndarray, "h w"]) -> bool:
        assert self._stamp_ns is not None
        if len(self._corners) < 8:  # nothing to measure with: time decides
            changed = float(np.abs(grey.astype(np.int16) - self._image).mean()) > 2.0
            return changed and self._waited(frame)
        ends, found, _ = cv2.calcOpticalFlowPyrLK(self._image, grey, self._corners, None)
        found = found[:, 0] > 0
        if found.mean() < self.config.min_tracked:
            return True
        flow = np.linalg.norm((ends - self._corners)[found, 0], axis=1) / WIDTH
        median = float(np.median(flow))
        if median >= self.config.min_flow:
            return True
        return median >= self.config.standstill_flow and self._waited(frame)

    def _waited(self, frame: Frame) -> bool:
        assert self._stamp_ns is not None
        return frame.stamp_ns - self._stamp_ns >= self.config.max_interval_s * 1e9


def small_grey(image: UInt8[ndarray, "h w 3"]) -> UInt8[ndarray, "h2 w2"]:
    height = max(16, round(image.shape[0] * WIDTH / image.shape[1]))
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey, (WIDTH, height), interpolation=cv2.INTER_AREA))


def find_corners(grey: UInt8[ndarray, "h w"]) -> Float[ndarray, "n 1 2"]:
    corners = cv2.goodFeaturesToTrack(grey, CORNERS, 0.01, 8)
    return np.zeros((0, 1, 2), np.float32) if corners is None else np.asarray(corners)
