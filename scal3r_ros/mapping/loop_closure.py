"""Loops: descriptors of whole images propose, local features and geometry decide.

False loops are far worse than missed ones, so every test must pass: score, votes of neighbouring
keyframes, features that agree on one camera pose in several pairs of images, poses that agree with
each other, and a rotation that the graph can believe. Where features do not suffice, the network is
asked by a bridge chunk.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Real
from numpy import ndarray

from scal3r_ros.mapping.bridge import Ask, Bridges
from scal3r_ros.mapping.config import LoopConfig, MapperConfig
from scal3r_ros.mapping.kept_keyframes import KeptKeyframe, KeptKeyframes
from scal3r_ros.mapping.place_match import (
    FINE,
    ROUGH,
    Detail,
    PlaceMatch,
    View,
    agree,
    loop_information,
    match_places,
    view_of,
)
from scal3r_ros.mapping.place_words import describe_place, place_words
from scal3r_ros.mapping.places import Descriptors
from scal3r_ros.mapping.pose_graph import PoseGraph
from scal3r_ros.mapping.registration import shared_frames
from scal3r_ros.mapping.shelf import Shelf
from scal3r_ros.mapping.types import Edge, Frame, Submap

logger = logging.getLogger(__name__)

SIDE = 2  # keyframes between the images that are matched
LOST_TRIES = 3  # times as many candidates where the camera is sought in a map
SUPPRESSED = 6  # keyframes around an accepted pair that are not proposed again
ROUGH_INLIERS = 7  # of small images: fewer, and the rest is not looked at


@dataclass(frozen=True)
class LoopCandidate:
    """Two keyframes (positions in the keyframe list) that look alike."""

    old: int
    new: int
    score: float


class LoopDetector:
    """Searches the descriptors of all keyframes, and judges what it finds by their images."""

    def __init__(self, config: MapperConfig, shelf: Shelf, ask: Ask) -> None:
        self.bridges = Bridges(config, ask)
        self.adopt(config.loops)
        self.keyframes = KeptKeyframes(shelf)
        self.words, self.tokens = Descriptors(shelf), Descriptors(shelf)
        self._views: dict[tuple[int, int, Detail], View] = {}  # looked at for the newest chunk
        self._described: dict[int, Float32[ndarray, " d"]] = {}  # in words, by image index
        self.closed: list[tuple[int, int]] = []

    def adopt(self, config: LoopConfig) -> None:
        """Other settings from the next chunk on."""
        self.config = self.bridges.config = config

    def look(self, frames: tuple[Frame, ...]) -> None:
        """Describes a chunk's keyframes in words; for that nobody needs to know where they are."""
        before, words = self._described, place_words()
        self._described = {
            f.index: before[f.index] if f.index in before else describe_place(f.image, words)
            for f in frames
        }

    def add(
        self, frames: tuple[Frame, ...], submap: Submap, graph: PoseGraph, *, whole: bool = False
    ) -> list[LoopCandidate]:
        """Takes in a submap's new keyframes, or the whole of it; returns candidates, best first.
        Places of another piece of the map count however recent: only a loop joins the pieces."""
        first = len(self.keyframes)
        self.look(frames)
        for slot in range(0 if whole else submap.overlap, len(frames)):
            self.keyframes.append(frames[slot], submap.index)
            self.words.append(self._described[frames[slot].index])
            self.tokens.append(submap.descriptors[slot])
        piece = graph.piece(submap.index)
        tries = LOST_TRIES if whole else 1
        self.bridges.begin(tries)
        most = self.config.per_chunk * tries
        found = self._candidates(self.words, self.config.min_score, first, piece, graph)[:most]
        if self.config.tokens:
            score = self.config.min_token_score
            found += self._candidates(self.tokens, score, first, piece, graph)[:most]
        return found

    def take(
        self, kept: KeptKeyframe, words: Real[ndarray, " d"], tokens: Float32[ndarray, " e"]
    ) -> None:
        """One more place to come back to."""
        self.keyframes.take(kept)
        self.words.append(words)
        self.tokens.append(tokens)

    def forget_from(self, first: int) -> None:
        """Drops the newest keyframes (of a chunk that was only localised)."""
        self.keyframes.forget_from(first)
        self.words.forget_from(first)
        self.tokens.forget_from(first)
        self.bridges.forget()
        self.decided()

    def _candidates(
        self,
        descriptors: Descriptors,
        min_score: float,
        first: int,
        piece: int | None,
        graph: PoseGraph,
    ) -> list[LoopCandidate]:
        others = np.array([graph.piece(k) != piece for k in self.keyframes.submaps[:first]])
        if first < self.config.min_gap and not others.any():
            return []
        around = max(0, first - 4)
        likeness = descriptors.likeness(around)
        found = []
        for new in range(first, len(self.keyframes)):
            scores = self._scores(likeness[new - around], new, others)
            old = int(scores.argmax())
            if scores[old] < min_score or not self._is_new(old, new):
                continue
            near = range(max(0, new - 4), new + 1)
            best = [int(self._scores(likeness[k - around], k, others).argmax()) for k in near]
            if sum(abs(b - old) <= SUPPRESSED for b in best) >= self.config.votes:
                found.append(LoopCandidate(old, new, float(scores[old])))
        return sorted(found, key=lambda c: -c.score)

    def _scores(
        self, likeness: Float32[ndarray, " n"], new: int, others: Bool[ndarray, " m"]
    ) -> Float32[ndarray, " m"]:
        """Likeness of a keyframe to all that may close a loop with it, -1 for those that may not:
        recent ones of the same piece of the map."""
        recent = np.arange(len(others)) > new - self.config.min_gap
        return np.where(recent & ~others, np.float32(-1), likeness[: len(others)])

    def _is_new(self, old: int, new: int) -> bool:
        return all(abs(old - a) > SUPPRESSED or abs(new - b) > SUPPRESSED for a, b in self.closed)

    def close(self, candidate: LoopCandidate) -> None:
        """Remembers a pair, so that it is not verified again and again."""
        self.closed.append((candidate.old, candidate.new))

    def decided(self) -> None:
        """All candidates of a chunk are verified: nothing of their images is kept."""
        self._views = {}

    def verify(
        self, candidate: LoopCandidate, submaps: Sequence[Submap], graph: PoseGraph
    ) -> Edge | None:
        """T_old_new by matching images around both places, else by a bridge through the network;
        None where any test fails."""
        old, new = (submaps[self.keyframes[k].submap] for k in (candidate.old, candidate.new))
        if new is old or shared_frames(old, new):
            return None
        edge = self._matched(candidate, old, new)
        if edge is None:
            ends = candidate.old, candidate.new
            edge = self.bridges.verify(ends, self.keyframes, old, new, graph)
        if edge is None:
            return None
        known = graph.piece(old.index) == graph.piece(new.index)
        turn = float(np.linalg.norm(graph.residual(edge)[:3])) if known else 0.0
        if turn > self.config.max_turn_rad:
            logger.info("loop %s refused: %.2f rad against the graph", candidate, turn)
            return None
        return edge

    def _matched(self, candidate: LoopCandidate, old: Submap, new: Submap) -> Edge | None:
        """At least `agreeing` pairs of images must say the same, each with enough features."""
        ends = (candidate.old, old), (candidate.new, new)
        glance = (self._view(*end, ROUGH) for end in ends)
        if match_places(*glance, ROUGH_INLIERS) is None:  # most end here, before the costly rest
            logger.info("loop %s: the images are not alike", candidate)
            return None
        first = self._view(*ends[0]), self._view(*ends[1])
        found = [match_places(*first, self.config.min_inliers)]
        if found[0] is None:
            logger.info("loop %s: the images do not match", candidate)
            return None
        olds = [first[0], *self._sides(candidate.old, old)]
        news = [first[1], *self._sides(candidate.new, new)]
        pairs = [(a, b) for a in olds for b in news][1:]
        found += [match_places(a, b, self.config.min_inliers) for a, b in pairs]
        matches = [m for m in found if m is not None and self._is_sound(m)]
        groups = [[m for m in matches if self._agree(m, pivot, first[0])] for pivot in matches]
        group = max(groups, key=len, default=[])
        if len(group) < self.config.agreeing:
            logger.info("loop %s: %d pairs agree", candidate, len(group))
            return None
        return _edge(group, *first)

    def _view(self, keyframe: int, submap: Submap, detail: Detail = FINE) -> View:
        """A keyframe as one of the submaps that hold it has it."""
        key = keyframe, submap.index, detail
        if key not in self._views:
            kept = self.keyframes[keyframe]
            slot = submap.frame_indices.index(kept.frame.index)
            self._views[key] = view_of(kept.restore().image, submap, slot, detail)
        return self._views[key]

    def _sides(self, keyframe: int, submap: Submap) -> list[View]:
        """The neighbours on either side, as far as they lie in the same submap."""
        sides = [k for k in (keyframe - SIDE, keyframe + SIDE) if 0 <= k < len(self.keyframes)]
        inside = [k for k in sides if self.keyframes[k].frame.index in submap.frame_indices]
        return [self._view(k, submap) for k in inside]

    def _is_sound(self, match: PlaceMatch) -> bool:
        return match.share >= self.config.min_share and match.coverage >= self.config.min_coverage

    def _agree(self, a: PlaceMatch, b: PlaceMatch, old: View) -> bool:
        difference = (a.T_old_new.inverse() @ b.T_old_new).log()
        return agree(difference, _middle(old) / a.T_old_new.s, self.config)


def _middle(view: View) -> float:
    return float(np.median(view.depth[view.depth > 0]))


def _edge(group: list[PlaceMatch], old: View, new: View) -> Edge:
    """The best of the agreeing matches, with their spread as its uncertainty."""
    best = max(group, key=lambda m: m.inliers)
    others = np.stack([(best.T_old_new.inverse() @ m.T_old_new).log() for m in group])
    spread = np.sqrt((others**2).mean(axis=0))
    information = loop_information(spread, _middle(old), best.T_old_new.s)
    return Edge(
        source=new.submap,
        target=old.submap,
        T_target_source=best.T_old_new,
        information=information,
        kind="loop",
        inliers=best.share,
        residual=best.log_spread,
    )
