"""Where a stream of images breaks off: frames on both sides do not belong into one chunk."""

from collections import deque
from statistics import median

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from scal3r_ros.mapping.config import KeyframeConfig
from scal3r_ros.mapping.types import Frame

INTERVALS = 20  # recent ones that say what is usual
UNUSUAL = 5.0  # times the usual interval
SAME_K = 0.01  # of the focal length, between two images


class Continuity:
    """A long pause between two stamps, a step back, or another image size or calibration."""

    def __init__(self, config: KeyframeConfig) -> None:
        self.config = config
        self._last: Frame | None = None
        self._seconds: deque[float] = deque(maxlen=INTERVALS)

    def broken(self, frame: Frame) -> str:
        """What broke between the last frame and this one; empty where nothing did."""
        last, self._last = self._last, frame
        if last is None:
            return ""
        if last.image.shape != frame.image.shape:
            sizes = (f"{f.image.shape[1]}x{f.image.shape[0]}" for f in (last, frame))
            return "the image size changed from {} to {}".format(*sizes)
        if last.K is not None and frame.K is not None and _differ(last.K, frame.K):
            return "the camera's calibration changed"
        seconds = (frame.stamp_ns - last.stamp_ns) * 1e-9
        if seconds < 0:
            return f"time went back by {-seconds:.1f} s"
        usual = median(self._seconds) if self._seconds else seconds
        self._seconds.append(seconds)
        if seconds > max(self.config.max_gap_s, UNUSUAL * usual):
            return f"no image for {seconds:.1f} s"
        return ""


def _differ(K: Float[ndarray, "3 3"], other: Float[ndarray, "3 3"]) -> bool:
    """Cameras that focus tell another K with every image, different in its last digits."""
    return bool(np.abs(K - other).max() > SAME_K * K[0, 0])
