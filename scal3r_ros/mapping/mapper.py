"""The mapper: images in, a map that grows and corrects itself. The whole story on one page.

gate -> chunk -> network -> refinement -> submap -> registration -> loops -> graph -> map
"""

import logging
import time
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from scal3r_ros.geometry.align import AlignmentError
from scal3r_ros.geometry.camera import scale_intrinsics
from scal3r_ros.geometry.keyframe import Keyframe
from scal3r_ros.geometry.sim3 import Sim3
from scal3r_ros.mapping.carried import carried_from
from scal3r_ros.mapping.chunker import Chunker
from scal3r_ros.mapping.config import ConfigError, MapperConfig
from scal3r_ros.mapping.continuity import Continuity
from scal3r_ros.mapping.keyframes import KeyframeGate
from scal3r_ros.mapping.loop_closure import LoopDetector, thumbnail
from scal3r_ros.mapping.point_map import PointMap
from scal3r_ros.mapping.pose_graph import PoseGraph
from scal3r_ros.mapping.prediction import Predictor
from scal3r_ros.mapping.refinement import refine
from scal3r_ros.mapping.registration import register, shared_frames
from scal3r_ros.mapping.scale import ScaleEstimator
from scal3r_ros.mapping.trajectory import WeightedPoses, blended, middle_weight
from scal3r_ros.mapping.types import (
    Chunk,
    ChunkTooLargeError,
    Edge,
    Frame,
    MapUpdate,
    Prediction,
    PredictionError,
    Submap,
)

logger = logging.getLogger(__name__)

FED_SCALES = ("none", "fixed")  # sources that reach the estimator by now

# Optical axes (x right, y down, z forward) of a level first camera in a z-up map (REP 103).
R_MAP_OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


@dataclass
class Counters:
    """What happened, for status and report."""

    frames: int = 0
    keyframes: int = 0
    chunks: int = 0
    loops: int = 0
    loops_refused: int = 0
    components: int = 0  # pieces of the map that no overlap or loop connects
    chunks_discarded: int = 0  # unusable predictions
    interruptions: int = 0  # breaks in the stream of images
    predict_seconds: list[float] = field(default_factory=list)
    total_seconds: list[float] = field(default_factory=list)


class Mapper:
    """Owns the memory, the submaps, the graph and the map of one session."""

    def __init__(self, predictor: Predictor, config: MapperConfig) -> None:
        if config.scale.source not in FED_SCALES:
            wanted = config.scale.source
            raise ConfigError(f"scale source {wanted} is not fed yet: use one of {FED_SCALES}")
        self.predictor, self.config = predictor, config
        self.R_map_first = R_MAP_OPTICAL  # of the first submap's reference camera
        self.session = -1
        self.write_memory = True  # False: the memory is complete and only read (offline schedule)
        self.reset()

    def reset(self) -> None:
        """A new session: nothing is kept but the settings."""
        self.session += 1
        self.continuity = Continuity(self.config.keyframes)
        self.gate = KeyframeGate(self.config.keyframes)
        self.chunker = Chunker(self.config.chunks)
        self.memory = self.predictor.initial_memory()
        self.graph = PoseGraph(self.config.graph)
        self.loop_detector = LoopDetector(self.config.loops)
        self.scale = ScaleEstimator(self.config.scale)
        self.point_map = PointMap(self.config.points)
        self.submaps: list[Submap] = []
        self.counters = Counters()
        self.map_version = 0
        self.trouble = ""  # what went wrong last, for people
        self._newest: Frame | None = None
        self._carries = False  # whether the newest submap's poses are worth carrying over

    def add_frame(self, frame: Frame) -> list[MapUpdate]:
        """One image; usually nothing is due and the list is empty."""
        return [update for chunk in self.chunks_due(frame) for update in self._map_chunk(chunk)]

    def chunks_due(self, frame: Frame) -> list[Chunk]:
        """What an image completes: a chunk of keyframes; before it, where the stream broke off, the
        last chunk of the piece that ended. Loops may join the pieces."""
        self.counters.frames += 1
        due: list[Chunk | None] = []
        why = self.continuity.broken(frame)
        if why:
            self._troubled(f"{why}: a new piece of the map begins")
            self.counters.interruptions += 1
            due.append(self.chunker.flush())
            self.chunker.cut()
            self.gate.reset()
        if self.gate.accept(frame):
            self.counters.keyframes += 1
            due.append(self.chunker.add(frame))
        return [chunk for chunk in due if chunk is not None]

    def flush(self) -> list[MapUpdate]:
        """The last, shorter chunk, so that no keyframe is lost."""
        chunk = self.chunker.flush()
        return self._map_chunk(chunk) if chunk else []

    def _map_chunk(self, chunk: Chunk) -> list[MapUpdate]:
        began = time.perf_counter()
        try:
            prediction, self.memory = self.predictor.predict(
                chunk, self.memory, write=self.write_memory
            )
        except ChunkTooLargeError as error:
            return self._map_shorter(chunk, error)
        except PredictionError as error:
            return self._discard(chunk, error)
        self.counters.predict_seconds.append(time.perf_counter() - began)
        submap = self._submap(chunk, self._refined(chunk, prediction))
        moved = self._place(submap)
        self._newest = chunk.frames[-1]
        loops, moved_by_loops = self._close_loops(chunk, submap)
        update = self._publishable(submap, moved | moved_by_loops, loops)
        self.point_map.update(update)
        self.counters.chunks += 1
        self.counters.total_seconds.append(time.perf_counter() - began)
        logger.info(
            "submap %d: %d keyframes, %d points, scale %.3f, %.2f s",
            submap.index,
            len(chunk.frames),
            len(self.point_map.clouds[submap.index]),
            submap.T_map_submap.s,
            time.perf_counter() - began,
        )
        return [update]

    def _discard(self, chunk: Chunk, why: ValueError) -> list[MapUpdate]:
        self._troubled(f"chunk {chunk.index} discarded: {why}")
        self.counters.chunks_discarded += 1
        self.chunker.cut()
        return []

    def _map_shorter(self, chunk: Chunk, error: ChunkTooLargeError) -> list[MapUpdate]:
        """The device's memory sets the length of chunks from here on; no keyframe is lost."""
        try:
            parts = self.chunker.split(chunk, min(error.fits, len(chunk.frames) - 1))
        except ValueError as too_few:
            return self._discard(chunk, too_few)
        size, overlap = self.chunker.config.size, self.chunker.config.overlap
        self._troubled(f"{error}: chunks of {size}, {overlap} shared, from here on")
        return [update for part in parts for update in self._map_chunk(part)]

    def _troubled(self, what: str) -> None:
        self.trouble = what
        logger.warning(what)

    def _refined(self, chunk: Chunk, prediction: Prediction) -> Prediction:
        if not self.config.refinement.enabled:
            return prediction
        carried = carried_from(self.submaps[-1], chunk) if self._carries else None
        refined, report = refine(chunk, prediction, self.config.refinement, carried)
        self._carries = report.start != "none"  # what was not refined is not worth carrying
        logger.debug("chunk %d: %s", chunk.index, report)
        return refined

    def _submap(self, chunk: Chunk, prediction: Prediction) -> Submap:
        size = prediction.depth.shape[1:]
        return Submap(
            index=len(self.submaps),
            frame_indices=tuple(f.index for f in chunk.frames),
            stamps_ns=tuple(f.stamp_ns for f in chunk.frames),
            overlap=chunk.overlap,
            depth=np.minimum(prediction.depth, 6e4).astype(np.float16),
            confidence=np.minimum(prediction.confidence, 6e4).astype(np.float16),
            edge_certainty=prediction.edge_certainty.astype(np.float16),
            K=prediction.K,
            T_submap_cam=prediction.T_submap_cam,
            descriptors=prediction.descriptors,
            thumbnails=np.stack([thumbnail(f.image, *size) for f in chunk.frames]),
        )

    def _place(self, submap: Submap) -> set[int]:
        """Ties the submap to all that share frames with it; without any it starts a component."""
        edges = self._overlap_edges(submap)
        self.submaps.append(submap)
        if not edges:
            self._start_component(submap)
            return self._optimise()
        nearest = max(edges, key=lambda edge: edge.target)
        submap.T_map_submap = self.submaps[nearest.target].T_map_submap @ nearest.T_target_source
        self.graph.add_submap(submap.index, submap.T_map_submap)
        for edge in edges:
            self.graph.add_edge(edge)
        return self._optimise()

    def _overlap_edges(self, submap: Submap) -> list[Edge]:
        edges = []
        for other in reversed(self.submaps):
            if not shared_frames(submap, other):
                break
            try:
                edges.append(register(submap, other, self.config.registration))
            except AlignmentError as error:
                logger.warning("submap %d: %s", submap.index, error)
        return edges

    def _start_component(self, submap: Submap) -> None:
        """The first submap is the map's origin; a later one continues where the camera was."""
        self.counters.components += 1
        submap.T_map_submap = Sim3(self.R_map_first, np.zeros(3), self.scale.scale)
        if len(self.submaps) > 1:
            before = self.submaps[-2]
            logger.warning("submap %d starts a new component", submap.index)
            last = before.T_map_submap.apply_pose(before.T_submap_cam[-1])
            first = np.linalg.inv(submap.T_submap_cam[0])
            s = before.T_map_submap.s
            submap.T_map_submap = Sim3.from_pose(last, s) @ Sim3.from_pose(first)
        self.graph.add_submap(submap.index, submap.T_map_submap, fixed=True)

    def _optimise(self) -> set[int]:
        moved = self.graph.optimise()
        for index, T_map_submap in moved.items():
            self.submaps[index].T_map_submap = T_map_submap
        return set(moved)

    def _close_loops(self, chunk: Chunk, submap: Submap) -> tuple[int, set[int]]:
        if not self.config.loops.enabled:
            return 0, set()
        closed = 0
        for candidate in self.loop_detector.add(chunk.frames, submap):
            edge = self.loop_detector.verify(candidate, self.submaps, self.graph)
            if edge is None:
                self.counters.loops_refused += 1
                continue
            self.loop_detector.close(candidate)
            self.graph.add_edge(edge)
            closed += 1
        self.counters.loops += closed
        return closed, self._optimise() if closed else set()

    def _publishable(self, submap: Submap, moved: set[int], loops: int) -> MapUpdate:
        older = tuple(sorted(moved - {submap.index}))
        if older:
            self.map_version += 1
        return MapUpdate(submap, older, self.map_version, loops)

    def keyframe_poses(self) -> dict[int, Float[ndarray, "4 4"]]:
        """T_map_cam of every keyframe, blended over the submaps that hold it."""
        found: WeightedPoses = {}
        for submap in self.submaps:
            poses = submap.T_map_submap.apply_pose(submap.T_submap_cam)
            for slot, index in enumerate(submap.frame_indices):
                weight = middle_weight(slot, len(poses))
                found.setdefault(index, []).append((weight, poses[slot]))
        return blended(found)

    def newest_keyframe(self) -> Keyframe:
        """The last mapped keyframe with depth in map units, for the tracker."""
        assert self._newest is not None
        submap = self.submaps[-1]
        K = self._newest.K
        if K is None:
            size = submap.depth.shape[1:]
            K = scale_intrinsics(submap.K[-1], size, self._newest.image.shape[:2])
        return Keyframe(
            index=self._newest.index,
            stamp_ns=self._newest.stamp_ns,
            image=self._newest.image,
            depth=(submap.depth[-1].astype(np.float64) * submap.T_map_submap.s).astype(np.float32),
            K=K,
            T_map_cam=submap.T_map_submap.apply_pose(submap.T_submap_cam[-1]),
            map_version=self.map_version,
        )
