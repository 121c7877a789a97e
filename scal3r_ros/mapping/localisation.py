"""Where the camera is in a map that does not grow: submaps pass by, only their place is kept."""

import logging

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from scal3r_ros.geometry.align import AlignmentError
from scal3r_ros.geometry.sim3 import Sim3
from scal3r_ros.mapping.config import RegistrationConfig
from scal3r_ros.mapping.loop_closure import LoopDetector
from scal3r_ros.mapping.pose_graph import PoseGraph
from scal3r_ros.mapping.registration import register
from scal3r_ros.mapping.types import Chunk, Submap

logger = logging.getLogger(__name__)


class Localiser:
    """Places a submap by recognising the map, else by the submap before it."""

    def __init__(self, config: RegistrationConfig) -> None:
        self.config = config
        self.before: Submap | None = None
        self._start: Float[ndarray, "4 4"] | None = None
        self.recognised = 0  # chunks
        self.unrecognised = 0  # chunks since the last that was

    def begin_at(self, T_map_cam: Float[ndarray, "4 4"]) -> None:
        """Somebody tells where the next chunk begins: believed until the map is recognised."""
        self.before, self._start = None, T_map_cam

    def place(
        self,
        chunk: Chunk,
        submap: Submap,
        submaps: list[Submap],
        detector: LoopDetector,
        graph: PoseGraph,
    ) -> bool:
        """Sets T_map_submap; False where the camera is not recognised and nothing leads here."""
        T = self._recognised(chunk, submap, submaps, detector, graph)
        if T is None:
            self.unrecognised += 1
            T = self._told(submap, submaps) or self._followed(submap)
        else:
            self.recognised, self.unrecognised, self._start = self.recognised + 1, 0, None
        if T is None:
            self.before = None
            return False
        submap.T_map_submap, self.before = T, submap
        return True

    def _recognised(
        self,
        chunk: Chunk,
        submap: Submap,
        submaps: list[Submap],
        detector: LoopDetector,
        graph: PoseGraph,
    ) -> Sim3 | None:
        first = len(detector.keyframes)
        try:
            for candidate in detector.add(chunk.frames, submap, graph, whole=True):
                edge = detector.verify(candidate, [*submaps, submap], graph)
                if edge is not None:
                    return submaps[edge.target].T_map_submap @ edge.T_target_source
            return None
        finally:
            detector.forget_from(first)

    def _told(self, submap: Submap, submaps: list[Submap]) -> Sim3 | None:
        """As large as the map is where it was told to be."""
        start, self._start = self._start, None
        if start is None or not submaps:
            return None
        distances = [np.linalg.norm(s.T_map_submap.t - start[:3, 3]) for s in submaps]
        near = submaps[int(np.argmin(distances))]
        return submap.beginning_at(start, near.T_map_submap.s)

    def _followed(self, submap: Submap) -> Sim3 | None:
        if self.before is None:
            return None
        try:
            edge = register(submap, self.before, self.config)
        except AlignmentError as error:
            logger.warning("localisation: %s", error)
            return None
        return self.before.T_map_submap @ edge.T_target_source
