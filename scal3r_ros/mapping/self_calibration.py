"""The focal length of a camera that nobody has calibrated.

A network guesses it, for every frame anew; bundle adjustment measures it, chunk by chunk, until it
is as good as known. Pixels are taken to be square, the lens to be centred and free of distortion.
"""

import logging
from dataclasses import replace

import numpy as np

from scal3r_ros.mapping.types import Chunk, Prediction

logger = logging.getLogger(__name__)

GUESS = 0.25  # deviation of the log focal length that a network says
KNOWN = 0.03  # and the one at which it counts as known
CHUNK = 0.05  # deviation of what a chunk measures, at best: four sequences scatter by as much
MODESTY = 10.0  # times the formal deviation: errors of a track go together
SURPRISE = 1.5  # deviations
SAME_SHAPE = 0.01  # by which images of one shape differ after they were made smaller


class SelfCalibration:
    """One focal length for all images whose K is unknown."""

    def __init__(self) -> None:
        self.focal: float | None = None  # widths of the image
        self.deviation = GUESS  # of its logarithm
        self._shape = 0.0  # of the images, rows over columns

    def __str__(self) -> str:
        if self.focal is None:
            return "not estimated"
        return f"{self.focal:.4f} image widths +- {100 * self.deviation:.1f} %, estimated"

    def sigma(self, chunk: Chunk) -> float:
        """For the bundle adjustment of these frames, which counts every pixel's error as another:
        deviation of the log focal length; 0 where it is known."""
        known = self._is_calibrated(chunk) or self.deviation < KNOWN
        return 0.0 if known else self.deviation / MODESTY

    def apply(self, chunk: Chunk, prediction: Prediction) -> Prediction:
        """The prediction with one K for all of its frames: with the network's first focal length,
        later with the measured one."""
        if self._is_calibrated(chunk):
            return prediction
        height, width = prediction.depth.shape[1:]
        rows, columns = chunk.frames[0].image.shape[:2]
        stretch = height * columns / (rows * width)  # square pixels may have become oblong
        if abs(rows / columns - self._shape) > SAME_SHAPE * self._shape:  # turned, or cut otherwise
            self.focal, self.deviation, self._shape = None, GUESS, rows / columns
        if self.focal is None:
            sides = prediction.K[:, 0, 0] * prediction.K[:, 1, 1] / stretch
            self.focal = float(np.median(np.sqrt(sides))) / width
        K = np.array([[1, 0, 0.5], [0, stretch, 0.5 * height / width], [0, 0, 1 / width]])
        K[[0, 1], [0, 1]] *= self.focal
        return replace(prediction, K=np.tile(width * K, (len(chunk.frames), 1, 1)))

    def learn(self, log_focal: float, deviation: float) -> None:
        """From a chunk's bundle adjustment: the log of the focal length over what was believed
        before, and its formal deviation. What contradicts all before counts less."""
        assert self.focal is not None
        posterior, prior = deviation**-2, self.deviation**-2
        added = posterior - MODESTY**2 * prior  # what the images themselves say
        if added <= 0:
            return
        measured, variance = log_focal * posterior / added, MODESTY**2 / added + CHUNK**2
        surprise = abs(measured) / (variance + 1 / prior) ** 0.5
        believed = min(1.0, SURPRISE / max(surprise, 1e-12)) / variance
        self.focal *= float(np.exp(measured * believed / (prior + believed)))
        self.deviation = (prior + believed) ** -0.5
        logger.info("focal length: %s", self)

    @staticmethod
    def _is_calibrated(chunk: Chunk) -> bool:
        return all(frame.K is not None for frame in chunk.frames)


def zoomed(prediction: Prediction, log_focal: float) -> Prediction:
    """With another focal length."""
    K = prediction.K.copy()
    K[:, [0, 1], [0, 1]] *= np.exp(log_focal)
    return replace(prediction, K=K)
