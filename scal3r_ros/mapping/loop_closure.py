"""Loops: the backend's own descriptors propose, a bridge chunk and geometry decide.

False loops are far worse than missed ones, so every test must pass: score, votes of neighbouring
keyframes, a bridge of images of both places through the network, its registration with both
submaps, and a scale that agrees.
"""

import logging
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from numpy import ndarray

from scal3r_ros.geometry.align import AlignmentError
from scal3r_ros.mapping.config import LoopConfig, RegistrationConfig
from scal3r_ros.mapping.registration import register
from scal3r_ros.mapping.types import Chunk, Edge, Frame, Submap

logger = logging.getLogger(__name__)

JPEG_QUALITY = 92
SUPPRESSED = 6  # keyframes around an accepted pair that are not proposed again


@dataclass(frozen=True)
class LoopCandidate:
    """Two keyframes (positions in the keyframe list) that look alike."""

    old: int
    new: int
    score: float


@dataclass(frozen=True, eq=False)
class KeptKeyframe:
    """What a bridge needs of a keyframe: its compressed image."""

    frame: Frame  # without pixels
    jpeg: bytes
    submap: int  # the submap that brought it

    def restore(self) -> Frame:
        pixels = cv2.imdecode(np.frombuffer(self.jpeg, np.uint8), cv2.IMREAD_COLOR)
        image = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
        return Frame(self.frame.index, self.frame.stamp_ns, image, self.frame.K)


def keep(frame: Frame, submap: int) -> KeptKeyframe:
    pixels = cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR)
    _, jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    bare = Frame(frame.index, frame.stamp_ns, np.zeros((0, 0, 3), np.uint8), frame.K)
    return KeptKeyframe(bare, jpeg.tobytes(), submap)


class LoopDetector:
    """Exact search over all keyframe descriptors: a matrix product is enough for 10^5 of them."""

    def __init__(self, config: LoopConfig) -> None:
        self.config = config
        self.keyframes: list[KeptKeyframe] = []
        self._descriptors: list[Float32[ndarray, " d"]] = []
        self._closed: list[tuple[int, int]] = []

    def add(self, frames: tuple[Frame, ...], submap: Submap) -> list[LoopCandidate]:
        """Takes in a submap's new keyframes; returns candidates, best first."""
        first = len(self.keyframes)
        for slot in range(submap.overlap, len(frames)):
            self.keyframes.append(keep(frames[slot], submap.index))
            self._descriptors.append(submap.descriptors[slot])
        return self._candidates(first)

    def _candidates(self, first: int) -> list[LoopCandidate]:
        if first < self.config.min_gap:
            return []
        everything = np.stack(self._descriptors)
        # what all places have in common says nothing about this one
        centred = everything - everything.mean(axis=0)
        centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9)
        found = []
        for new in range(first, len(everything)):
            scores = centred[: new - self.config.min_gap + 1] @ centred[new]
            if len(scores) and scores.max() >= self.config.min_score:
                old = int(scores.argmax())
                if self._votes(centred, old, new) >= self.config.votes and self._is_new(old, new):
                    found.append(LoopCandidate(old, new, float(scores[old])))
        return sorted(found, key=lambda c: -c.score)[: self.config.per_chunk]

    def _votes(self, centred: Float32[ndarray, "n d"], old: int, new: int) -> int:
        """How many of the five keyframes around `new` find their best match near `old`."""
        votes = 0
        for k in range(max(0, new - 4), new + 1):
            scores = centred[: max(k - self.config.min_gap + 1, 1)] @ centred[k]
            votes += abs(int(scores.argmax()) - old) <= SUPPRESSED
        return votes

    def _is_new(self, old: int, new: int) -> bool:
        return all(abs(old - a) > SUPPRESSED or abs(new - b) > SUPPRESSED for a, b in self._closed)

    def close(self, candidate: LoopCandidate) -> None:
        """Remembers a pair, so that it is not verified again and again."""
        self._closed.append((candidate.old, candidate.new))

    def bridge(self, candidate: LoopCandidate) -> Chunk:
        """Images of both places as one chunk that reads the memory without writing it."""
        half = self.config.window
        old = range(max(0, candidate.old - half // 2), candidate.old + half - half // 2)
        new_end = min(len(self.keyframes), candidate.new + half // 2)
        new = range(max(0, new_end - half), new_end)
        kept = [self.keyframes[i] for i in (*old, *(i for i in new if i not in old))]
        frames = tuple(k.restore() for k in kept)
        return Chunk(-1, frames, 0, (len(frames) + 1) // 2 - 1)


def verify(
    candidate: LoopCandidate,
    bridge: Submap,
    old: Submap,
    new: Submap,
    config: LoopConfig,
    registration: RegistrationConfig,
) -> Edge | None:
    """T_old_new through the bridge, or None where any test fails."""
    try:
        to_old = register(bridge, old, registration)
        to_new = register(bridge, new, registration)
    except AlignmentError as error:
        logger.info("loop %d-%d refused: %s", candidate.old, candidate.new, error)
        return None
    residual = max(to_old.residual, to_new.residual)
    inliers = min(to_old.inliers, to_new.inliers)
    if inliers < config.min_inliers or residual > config.max_residual:
        logger.info(
            "loop %d-%d refused: inliers %.2f, residual %.3f",
            candidate.old,
            candidate.new,
            inliers,
            residual,
        )
        return None
    T_old_new = to_old.T_target_source @ to_new.T_target_source.inverse()
    information = np.linalg.inv(
        np.linalg.inv(to_old.information) + np.linalg.inv(to_new.information)
    )
    return Edge(new.index, old.index, T_old_new, information, "loop", inliers, residual)


def thumbnail(image: UInt8[ndarray, "h w 3"], height: int, width: int) -> UInt8[ndarray, "h2 w2 3"]:
    """The image at the depth's resolution."""
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
