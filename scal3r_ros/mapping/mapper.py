"""The mapper: images in, a map that grows and corrects itself. The whole story on one page.

gate -> chunk -> network -> refinement -> submap -> registration -> loops -> graph -> map
"""

import logging
import time

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from scal3r_ros.geometry.keyframe import Keyframe
from scal3r_ros.geometry.sim3 import Sim3
from scal3r_ros.mapping.beside import looking
from scal3r_ros.mapping.carried import carried_from
from scal3r_ros.mapping.config import MapperConfig
from scal3r_ros.mapping.counters import Counters
from scal3r_ros.mapping.ground import R_MAP_OPTICAL, upright
from scal3r_ros.mapping.localisation import Localiser
from scal3r_ros.mapping.loop_closure import LoopDetector
from scal3r_ros.mapping.point_map import PointMap
from scal3r_ros.mapping.pose_graph import PoseGraph
from scal3r_ros.mapping.prediction import Predictor
from scal3r_ros.mapping.refinement import RefinementReport, Refiner
from scal3r_ros.mapping.registration import overlap_edges
from scal3r_ros.mapping.scale import MetricScale
from scal3r_ros.mapping.shelf import Shelf
from scal3r_ros.mapping.stream import ChunkStream
from scal3r_ros.mapping.submap import keyframe_of, submap_of
from scal3r_ros.mapping.trajectory import keyframe_poses, keyframe_stamped_poses
from scal3r_ros.mapping.types import (
    Chunk,
    ChunkTooLargeError,
    Frame,
    MapUpdate,
    Prediction,
    PredictionError,
    Submap,
)

logger = logging.getLogger(__name__)


class Mapper:
    """Owns the memory, the submaps, the graph and the map of one session."""

    def __init__(self, predictor: Predictor, config: MapperConfig) -> None:
        self.predictor, self.config = predictor, config
        self.R_map_first = R_MAP_OPTICAL  # of the first submap's reference camera
        self.session = -1
        self.write_memory = True  # False: the memory is complete and only read (offline schedule)
        self.reset()

    def reset(self) -> None:
        """A new session: nothing is kept but the settings."""
        self.session += 1
        self.localising = False  # True: the map is complete, submaps only say where the camera is
        self.counters = Counters()
        self.stream = ChunkStream(self.config, self.counters)
        self.memory, self.refiner = self.predictor.initial_memory(), Refiner()
        self.graph = PoseGraph(self.config.graph)
        self.shelf = Shelf(self.config.storage.folder)
        self.loop_detector = LoopDetector(self.config, self.shelf, self._ask)
        self.metric = MetricScale(self.config.scale, self.graph)
        self.localiser = Localiser(self.config.registration)
        self.point_map = PointMap(self.config.points, self.shelf)
        self.submaps: list[Submap] = []
        self.map_version = 0
        self.unit = 1.0  # of the map, against the one that the session began with
        self.trouble = ""  # what went wrong last, for people
        self.start: Float[ndarray, "4 4"] | None = None  # T_map_cam of the next piece, if told
        self._newest: tuple[Submap, Frame] | None = None  # placed last, and its last frame
        self._carries = False  # whether the newest submap's poses are worth carrying over

    def add_frame(self, frame: Frame) -> list[MapUpdate]:
        """One image; usually nothing is due and the list is empty."""
        due = self.stream.add(frame)
        if self.stream.broken:
            self._troubled(f"{self.stream.broken}: a new piece of the map begins")
        return [update for chunk in due for update in self._map_chunk(chunk)]

    def begin_piece(self) -> list[MapUpdate]:
        """The next image begins a new piece of the map."""
        last = self.stream.end_piece()
        return self._map_chunk(last) if last else []

    def adopt(self, config: MapperConfig) -> None:
        """Other settings, of what may change while mapping runs: keyframes, loops, refinement."""
        self.config = config
        self.stream.adopt(config.keyframes)
        self.loop_detector.adopt(config.loops)

    def set_localising(self, localising: bool) -> list[MapUpdate]:
        """From here on the map stays as it is, or grows again."""
        updates, here = self.begin_piece(), self.localiser.before
        if self.localising and not localising and here is not None and self.start is None:
            self.start = here.end
        self.localising = localising
        self.localiser = Localiser(self.config.registration)
        return updates

    def flush(self) -> list[MapUpdate]:
        """The last, shorter chunk, so that no keyframe is lost."""
        last = self.stream.chunker.flush()
        return self._map_chunk(last) if last else []

    def _map_chunk(self, chunk: Chunk) -> list[MapUpdate]:
        began = time.perf_counter()
        try:
            writes = self.write_memory and not self.localising
            with looking(self, chunk):
                prediction, self.memory = self._ask(chunk, writes)
        except ChunkTooLargeError as error:
            return self._map_shorter(chunk, error)
        except PredictionError as error:
            return self._discard(chunk, error)
        self.counters.predict_seconds.append(time.perf_counter() - began)
        submap = submap_of(chunk, *self._refined(chunk, prediction), len(self.submaps))
        if self.localising:
            return self._localise(chunk, submap)
        moved = self._place(chunk, submap)
        self._newest = submap, chunk.frames[-1]
        moved |= self._close_loops(chunk, submap)
        rescaled, moved_by_scale = self._measure_scale(chunk, submap)
        update = self._publishable(submap, moved | moved_by_scale, rescaled)
        cloud = self.point_map.update(update)
        self.shelve()
        self.counters.chunks += 1
        seconds, s = time.perf_counter() - began, submap.T_map_submap.s
        self.counters.total_seconds.append(seconds)
        what = f"{len(chunk.frames)} keyframes, {len(cloud)} points, scale {s:.3f}, {seconds:.2f} s"
        logger.info("submap %d: %s", submap.index, what)
        return [update]

    def _ask(self, chunk: Chunk, write: bool) -> tuple[Prediction, object]:
        """What the network says, and its memory after it."""
        prediction, memory = self.predictor.predict(chunk, self.memory, write=write)
        found, count = len(prediction.depth), len(chunk.frames)
        if found != count:
            raise PredictionError(f"{count} frames expected, got {found}")
        return prediction, memory

    def shelve(self) -> None:
        """A submap that is no longer among the newest lies on disk from here on."""
        newest = self.config.storage.in_memory
        if 0 < newest < len(self.submaps):
            self.submaps[-1 - newest].shelve(self.shelf)

    def _discard(self, chunk: Chunk, why: ValueError) -> list[MapUpdate]:
        self._troubled(f"chunk {chunk.index} discarded: {why}")
        self.counters.chunks_discarded += 1
        self.stream.chunker.cut()
        return []

    def _map_shorter(self, chunk: Chunk, error: ChunkTooLargeError) -> list[MapUpdate]:
        """The device's memory sets the length of chunks from here on; no keyframe is lost."""
        try:
            parts = self.stream.chunker.split(chunk, min(error.fits, len(chunk.frames) - 1))
        except ValueError as too_few:
            if not self.predictor.use_smaller_images():
                return self._discard(chunk, too_few)
            self._troubled(f"{error}: smaller images from here on")
            return self._map_chunk(chunk)
        size, overlap = self.stream.chunker.config.size, self.stream.chunker.config.overlap
        self._troubled(f"{error}: chunks of {size}, {overlap} shared, from here on")
        return [update for part in parts for update in self._map_chunk(part)]

    def _troubled(self, what: str) -> None:
        self.trouble = what
        logger.warning(what)

    def _refined(self, chunk: Chunk, prediction: Prediction) -> tuple[Prediction, RefinementReport]:
        config = self.config.refinement
        if not config.enabled:
            self._carries = False
            return prediction, RefinementReport("none", "switched off")
        carried = carried_from(self.submaps[-1], chunk, prediction) if self._carries else None
        refined, report = self.refiner.refine(chunk, prediction, config, carried)
        self._carries = config.carry and report.start != "none"  # not refined: not worth it
        logger.debug("chunk %d: %s", chunk.index, report)
        return refined, report

    def _localise(self, chunk: Chunk, submap: Submap) -> list[MapUpdate]:
        """The map stays as it is: the submap only says where the camera is."""
        start, self.start = self.start, None
        among = self.submaps, self.loop_detector, self.graph
        if not self.localiser.place(chunk, submap, *among, start):
            self._troubled("the camera is not recognised in the map")
            return []
        self._newest = submap, chunk.frames[-1]
        return [MapUpdate(submap, (), kept=False)]

    def _place(self, chunk: Chunk, submap: Submap) -> set[int]:
        """Ties the submap to all that share frames with it, and by odometry to the one before;
        without any tie it starts a component."""
        edges = overlap_edges(submap, self.submaps, self.config.registration)
        if edges or self.start is None:
            edges += self.metric.ties(chunk, submap, self.submaps, edges)
        self.submaps.append(submap)
        if not edges:
            self._start_component(submap)
            return self._optimise()
        nearest = max(edges, key=lambda edge: (edge.kind == "overlap", edge.target))
        if nearest.kind == "odometry":
            logger.warning("submap %d: odometry alone leads to it", submap.index)
        submap.T_map_submap = self.submaps[nearest.target].T_map_submap @ nearest.T_target_source
        self.graph.add_submap(submap.index, submap.T_map_submap)
        for edge in edges:
            self.graph.add_edge(edge)
        return self._optimise()

    def _start_component(self, submap: Submap) -> None:
        """The first submap is the map's origin, a later one continues where the camera was: unless
        its place was told."""
        self.counters.components += 1
        start, self.start = self.start, None
        s = self.metric.estimator.scale
        if len(self.submaps) > 1:
            logger.warning("submap %d starts a new component", submap.index)
            before = self.submaps[-2]
            start, s = before.end if start is None else start, before.T_map_submap.s
        if start is not None:
            submap.T_map_submap = submap.beginning_at(start, s)
        else:
            way = self.config.orientation
            R_map_submap = upright(way, self.R_map_first, submap, self.metric.sources.imu_up)
            if R_map_submap is None:
                self._troubled(f"map orientation {way}: nothing tells which way is up")
                R_map_submap = self.R_map_first
            submap.T_map_submap = Sim3(R_map_submap, np.zeros(3), s)
        self.graph.add_submap(submap.index, submap.T_map_submap, fixed=True)

    def _optimise(self) -> set[int]:
        return self._take(self.graph.optimise())

    def _take(self, moved: dict[int, Sim3]) -> set[int]:
        for index, T_map_submap in moved.items():
            self.submaps[index].T_map_submap = T_map_submap
        return set(moved)

    def _close_loops(self, chunk: Chunk, submap: Submap) -> set[int]:
        if not self.config.loops.enabled:
            return set()
        before, added = self.graph.loops, 0
        for candidate in self.loop_detector.add(chunk.frames, submap, self.graph):
            edge = self.loop_detector.verify(candidate, self.submaps, self.graph)
            if edge is None:
                self.counters.loops_refused += 1
                continue
            self.loop_detector.close(candidate)
            self.graph.add_edge(edge)
            added += 1
        self.loop_detector.decided()
        moved = self._optimise() if added else set()
        self.counters.loops = self.graph.loops
        self.counters.loops_refused += added - max(0, self.graph.loops - before)
        return moved

    def _measure_scale(self, chunk: Chunk, submap: Submap) -> tuple[float, set[int]]:
        """(factor of the map's unit, what moved): the whole map turns metric once the source is
        sure, later the scale of each submap is held; so is its tilt where an IMU levels the map."""
        levelled = self.config.orientation == "imu" and self.metric.level(submap)
        factor = self.metric.measure(chunk, submap)
        if factor is not None:
            return factor, self.rescale(factor)
        return 1.0, self._optimise() if levelled or self.metric.metric else set()

    def rescale(self, factor: float) -> set[int]:
        """Another unit for the whole map; returns what moved: everything."""
        logger.warning("the map changes its unit by a factor of %.4g", factor)
        self.unit *= factor
        change = Sim3(np.eye(3), np.zeros(3), factor)
        self.localiser.rescale(change)
        self.start = None if self.start is None else change.apply_pose(self.start)
        return self._take(self.graph.rescale(factor))

    def set_scale(self, scale: float) -> set[int]:
        """Metres per map unit, as somebody tells; 0: the source decides again. What moved."""
        self.metric.estimator.set(scale)
        return self.rescale(scale) if scale > 0 else set()

    def _publishable(self, submap: Submap, moved: set[int], rescaled: float) -> MapUpdate:
        older = tuple(sorted(moved - {submap.index}))
        if older:
            self.map_version += 1
        return MapUpdate(submap, older, rescaled)

    def keyframe_poses(self) -> dict[int, Float[ndarray, "4 4"]]:
        """T_map_cam of every keyframe, by image index."""
        return keyframe_poses(self.submaps)

    def keyframe_stamped_poses(self) -> list[tuple[int, Float[ndarray, "4 4"]]]:
        """(stamp [ns], T_map_cam) of every keyframe, in the order of the images."""
        return keyframe_stamped_poses(self.submaps)

    def newest_keyframe(self) -> Keyframe:
        """The last mapped keyframe with depth in map units, for the tracker."""
        assert self._newest is not None
        return keyframe_of(*self._newest, self.unit)
