"""Loops: the backend's own descriptors propose, local features and geometry decide.

False loops are far worse than missed ones, so every test must pass: score, votes of neighbouring
keyframes, features that agree on one camera pose in several pairs of images, poses that agree with
each other, and a rotation that the graph can believe.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from numpy import ndarray

from scal3r_ros.mapping.config import LoopConfig
from scal3r_ros.mapping.place_match import PlaceMatch, View, match_places, view_of
from scal3r_ros.mapping.pose_graph import PoseGraph
from scal3r_ros.mapping.registration import shared_frames
from scal3r_ros.mapping.types import Edge, Frame, Submap

logger = logging.getLogger(__name__)

JPEG_QUALITY = 92
SIDE = 2  # keyframes between the images that are matched
SUPPRESSED = 6  # keyframes around an accepted pair that are not proposed again


@dataclass(frozen=True)
class LoopCandidate:
    """Two keyframes (positions in the keyframe list) that look alike."""

    old: int
    new: int
    score: float


@dataclass(frozen=True, eq=False)
class KeptKeyframe:
    """What verification needs of a keyframe: its compressed image."""

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

    def verify(
        self, candidate: LoopCandidate, submaps: Sequence[Submap], graph: PoseGraph
    ) -> Edge | None:
        """T_old_new by matching images around both places, or None where any test fails.

        At least `agreeing` pairs of images must say the same, each with enough features.
        """
        old, new = (submaps[self.keyframes[k].submap] for k in (candidate.old, candidate.new))
        if shared_frames(old, new):
            return None
        first = self._view(candidate.old, old), self._view(candidate.new, new)
        found = [match_places(*first, self.config.min_inliers)]
        if found[0] is None:  # most candidates end here, before the costly rest
            logger.info("loop %s refused: the images do not match", candidate)
            return None
        olds = [first[0], *self._sides(candidate.old, old)]
        news = [first[1], *self._sides(candidate.new, new)]
        pairs = [(a, b) for a in olds for b in news][1:]
        found += [match_places(a, b, self.config.min_inliers) for a, b in pairs]
        matches = [m for m in found if m is not None and self._is_sound(m)]
        groups = [[m for m in matches if self._agree(m, pivot, first[0])] for pivot in matches]
        group = max(groups, key=len, default=[])
        if len(group) < self.config.agreeing:
            logger.info("loop %s refused: %d pairs agree", candidate, len(group))
            return None
        edge = _edge(group, *first)
        turn = float(np.linalg.norm(graph.residual(edge)[:3]))
        if turn > self.config.max_turn_rad:
            logger.info("loop %s refused: %.2f rad against the graph", candidate, turn)
            return None
        return edge

    def _view(self, keyframe: int, submap: Submap) -> View:
        kept = self.keyframes[keyframe]
        return view_of(kept.restore().image, submap, submap.frame_indices.index(kept.frame.index))

    def _sides(self, keyframe: int, submap: Submap) -> list[View]:
        """The neighbours on either side, as far as they lie in the same submap."""
        sides = [k for k in (keyframe - SIDE, keyframe + SIDE) if 0 <= k < len(self.keyframes)]
        inside = [k for k in sides if self.keyframes[k].frame.index in submap.frame_indices]
        return [self._view(k, submap) for k in inside]

    def _is_sound(self, match: PlaceMatch) -> bool:
        return match.share >= self.config.min_share and match.coverage >= self.config.min_coverage

    def _agree(self, a: PlaceMatch, b: PlaceMatch, old: View) -> bool:
        difference = (a.T_old_new.inverse() @ b.T_old_new).log()
        depth = float(np.median(old.depth)) / a.T_old_new.s  # in units of the new submap
        return (
            float(np.linalg.norm(difference[:3])) < self.config.agree_rad
            and float(np.linalg.norm(difference[3:6])) < self.config.agree_depth * depth
            and abs(float(difference[6])) < self.config.agree_log_scale
        )


def _edge(group: list[PlaceMatch], old: View, new: View) -> Edge:
    """The best of the agreeing matches, with their spread as its uncertainty."""
    best = max(group, key=lambda m: m.inliers)
    others = np.stack([(best.T_old_new.inverse() @ m.T_old_new).log() for m in group])
    depth = float(np.median(old.depth[old.depth > 0]))
    floors = np.array([0.01] * 3 + [0.02 * depth / best.T_old_new.s] * 3 + [0.02])
    deviations = np.maximum(np.sqrt((others**2).mean(axis=0)), floors)
    deviations[3:6] *= best.T_old_new.s
    return Edge(
        source=new.submap,
        target=old.submap,
        T_target_source=best.T_old_new,
        information=np.diag(1 / deviations**2),
        kind="loop",
        inliers=best.share,
        residual=best.log_spread,
    )


def thumbnail(image: UInt8[ndarray, "h w 3"], height: int, width: int) -> UInt8[ndarray, "h2 w2 3"]:
    """The image at the depth's resolution."""
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
