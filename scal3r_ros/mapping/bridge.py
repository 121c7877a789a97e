"""Bridge chunks: keyframes of two places pass the network together, and it says where they lie.

Local features tie views that look much alike; the network ties wider ones. What it says is
believed where its depth is that of both submaps, where what one place sees is where the other says,
and where a second bridge, of other keyframes, says the same. It reads the memory and does not write
it.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from scal3r_ros.geometry.align import AlignmentError
from scal3r_ros.geometry.camera import unproject
from scal3r_ros.geometry.sim3 import Sim3
from scal3r_ros.mapping.config import MapperConfig
from scal3r_ros.mapping.kept_keyframes import KeptKeyframes
from scal3r_ros.mapping.place_match import agree, loop_information
from scal3r_ros.mapping.point_filters import seen_from
from scal3r_ros.mapping.pose_graph import PoseGraph
from scal3r_ros.mapping.registration import on_grid, register
from scal3r_ros.mapping.submap import LARGEST, submap_of
from scal3r_ros.mapping.types import BULKY, Chunk, Edge, Prediction, PredictionError, Submap

logger = logging.getLogger(__name__)

Ask = Callable[[Chunk, bool], tuple[Prediction, object]]  # whether the memory is written

TOLERANCE = 0.08  # of a depth that is the same
ROWS = 96  # of depth at which two places are compared
APART = 4  # keyframes: bridges nearer to each other than that at both ends are one
LASTING = 3  # submaps for which a bridge waits for a second one


@dataclass(frozen=True, eq=False)
class Bridge:
    """A measured relation of two submaps that waits for a second one to confirm it."""

    edge: Edge
    old: Submap
    new: Submap
    ends: tuple[int, int]  # keyframes


class Bridges:
    """Asks the network for a few candidates of every chunk."""

    def __init__(self, config: MapperConfig, ask: Ask) -> None:
        self.config, self.registration, self.ask = config.loops, config.registration, ask
        self._left = 0  # that may still be asked for after this chunk
        self._waiting: list[Bridge] = []

    def begin(self, tries: int) -> None:
        """Another chunk has come."""
        self._left = tries * self.config.bridges_per_chunk

    def forget(self) -> None:
        self._waiting = []

    def verify(
        self,
        ends: tuple[int, int],
        keyframes: KeptKeyframes,
        old: Submap,
        new: Submap,
        graph: PoseGraph,
    ) -> Edge | None:
        """T_old_new, where this bridge and an earlier one agree."""
        if self._left <= 0:
            return None
        self._left -= 1
        try:
            edge = self._measure(ends, keyframes, old, new)
        except (PredictionError, AlignmentError) as error:
            logger.info("bridge %s refused: %s", ends, error)
            return None
        bridge = Bridge(edge, old, new, ends)
        self._waiting = [b for b in self._waiting if new.index - b.new.index <= LASTING]
        differences = [self._difference(bridge, other, graph) for other in self._waiting]
        told, depth = [d for d in differences if d is not None], new.median_depth
        agreeing = [d for d in told if agree(d, depth, self.config)]
        self._waiting.append(bridge)
        if not agreeing:
            logger.info("bridge %s waits for another that agrees", ends)
            return None
        return _with_spread(edge, min(agreeing, key=np.linalg.norm), old)

    def _measure(
        self, ends: tuple[int, int], keyframes: KeptKeyframes, old: Submap, new: Submap
    ) -> Edge:
        """By the network alone. Raises PredictionError or AlignmentError where it does not hold."""
        places = [
            self._around(end, keyframes, submap)
            for end, submap in zip(ends, (old, new), strict=True)
        ]
        frames = tuple(keyframes[k].restore() for place in places for k in place)
        sizes = {frame.image.shape[:2] for frame in frames}
        if len(sizes) > 1:
            raise AlignmentError(f"images of one size are needed, got {sorted(sizes)}")
        chunk = Chunk(-1, frames, 0, (len(frames) + 1) // 2 - 1)
        prediction, _ = self.ask(chunk, False)
        both = submap_of(chunk, prediction, None, -1)
        to_old, to_new = (register(both, side, self.registration) for side in (old, new))
        worst = max(to_old.residual, to_new.residual)
        if worst > self.config.bridge_residual:
            raise AlignmentError(f"its depth is {worst:.0%} off that of the submaps")
        T_old_new = to_old.T_target_source @ to_new.T_target_source.inverse()
        slots = [
            [side.frame_indices.index(keyframes[k].frame.index) for k in place]
            for side, place in zip((old, new), places, strict=True)
        ]
        shared, same = _mutual(old, slots[0], new, slots[1], T_old_new)
        if shared < self.config.bridge_overlap or same < self.config.bridge_same:
            raise AlignmentError(f"{shared:.0%} of the views are shared, {same:.0%} of that agrees")
        return replace(
            to_old,
            source=new.index,
            target=old.index,
            T_target_source=T_old_new,
            information=np.diag(1 / _variances(to_old, to_new)),
            kind="loop",
            inliers=same,
            residual=worst,
        )

    def _around(self, keyframe: int, keyframes: KeptKeyframes, submap: Submap) -> list[int]:
        """Neighbours of a keyframe in its submap, itself among them."""
        count = self.config.bridge_keyframes
        near = range(max(0, keyframe - count), min(len(keyframes), keyframe + count + 1))
        held = [k for k in near if keyframes[k].frame.index in submap.frame_indices]
        begin = max(0, min(held.index(keyframe) - count // 2, len(held) - count))
        return held[begin : begin + count]

    def _difference(self, a: Bridge, b: Bridge, graph: PoseGraph) -> Float[ndarray, " 7"] | None:
        """Between what two bridges say of a's submaps; None where the map does not tell how theirs
        lie to each other, or where they are nearly the same bridge."""
        if all(abs(i - j) < APART for i, j in zip(a.ends, b.ends, strict=True)):
            return None
        T_old = _relation(a.old, b.old, graph)
        T_new = _relation(a.new, b.new, graph)
        if T_old is None or T_new is None:
            return None
        said = T_old @ b.edge.T_target_source @ T_new.inverse()
        return (a.edge.T_target_source.inverse() @ said).log()


def _relation(a: Submap, b: Submap, graph: PoseGraph) -> Sim3 | None:
    """T_a_b in the map as it is."""
    if a is b:
        return Sim3.identity()
    piece = graph.piece(a.index)
    if piece is None or piece != graph.piece(b.index):
        return None
    return a.T_map_submap.inverse() @ b.T_map_submap


def _variances(to_old: Edge, to_new: Edge) -> Float[ndarray, " 7"]:
    """Of T_old_new, in units of the old submap: those of both registrations."""
    s = to_old.T_target_source.s / to_new.T_target_source.s
    units = np.array([1.0, 1, 1, s, s, s, 1]) ** 2
    return 1 / np.diag(to_old.information) + units / np.diag(to_new.information)


def _with_spread(edge: Edge, difference: Float[ndarray, " 7"], old: Submap) -> Edge:
    """As uncertain as the registrations and the two bridges' difference make it."""
    s = edge.T_target_source.s
    own = 1 / np.sqrt(np.diag(edge.information))
    own[3:6] /= s
    spread = np.hypot(own, np.abs(difference))
    return replace(edge, information=loop_information(spread, old.median_depth, s))


def _mutual(
    old: Submap, slots_old: list[int], new: Submap, slots_new: list[int], T_old_new: Sim3
) -> tuple[float, float]:
    """How much of what one place sees the other sees too, at least; and how much of that is where
    the other says, at least."""
    height, width = old.depth.shape[1:]
    rows = min(ROWS, height)
    grid = rows, round(width * rows / height)  # one for both: their images may differ in size
    a, b = _small(old, slots_old, grid), _small(new, slots_new, grid)
    scaled = np.minimum(b.depth.astype(np.float64) * T_old_new.s, LARGEST)
    alike = ("confidence", "edge_certainty", "thumbnails", "descriptors", "K")
    joint = replace(
        a,
        depth=np.concatenate([a.depth, scaled.astype(np.float16)]),
        T_submap_cam=np.concatenate([a.T_submap_cam, T_old_new.apply_pose(b.T_submap_cam)]),
        **{name: np.concatenate([getattr(a, name), getattr(b, name)]) for name in alike},
    )
    first, second = range(len(slots_old)), range(len(slots_old), len(joint.depth))
    ways = [_seen(joint, first, second), _seen(joint, second, first)]
    return min(shared for shared, _ in ways), min(same for _, same in ways)


def _small(submap: Submap, slots: Sequence[int], grid: tuple[int, int]) -> Submap:
    """Some of its frames, with few pixels."""
    names = (*BULKY, "T_submap_cam")
    part = replace(submap, **{name: getattr(submap, name)[slots] for name in names})
    return on_grid(part, grid)


def _seen(joint: Submap, those: Sequence[int], by: Sequence[int]) -> tuple[float, float]:
    """Of the points of some frames, the share that comes before the best of the other cameras; and
    of those, the share that this camera sees there, not looking through them."""
    points = shared = same = 0
    for slot in those:
        depth = joint.depth[slot].astype(np.float32)
        xyz = unproject(depth, joint.K[slot])[depth > 0].astype(np.float32)
        views = [seen_from(joint, slot, other, xyz, TOLERANCE) for other in by]
        hits, through = max(views, key=lambda v: int(v[0].sum() + v[1].sum()))
        points += len(xyz)
        shared += int(hits.sum() + through.sum())
        same += int(hits.sum())
    return shared / max(points, 1), same / max(shared, 1)
