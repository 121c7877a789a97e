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
        self.recognised = 0  # chunks

    def rescale(self, change: Sim3) -> None:
        """Another unit for the map."""
        if self.before is not None:
            self.before.T_map_submap = change @ self.before.T_map_submap

    def place(
        self,
        chunk: Chunk,
        submap: Submap,
        submaps: list[Submap],
        detector: LoopDetector,
        graph: PoseGraph,
        start: Float[ndarray, "4 4"] | None,
    ) -> bool:
        """Sets T_map_submap; False where the camera is not recognised and nothing leads here: no
        submap before, nor anybody who tells where the chunk begins (T_map_cam)."""
        T = self._recognised(chunk, submap, submaps, detector, graph)
        if T is not None:
            self.recognised += 1
        elif start is None:
            T = self._followed(submap)
        elif submaps:
            T = _beginning(submap, start, submaps)
        self.before = None if T is None else submap
        if T is not None:
            submap.T_map_submap = T
        return T is not None

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

    def _followed(self, submap: Submap) -> Sim3 | None:
        if self.before is None:
            return None
        try:
            edge = register(submap, self.before, self.config)
        except AlignmentError as error:
            logger.warning("localisation: %s", error)
            return None
        return self.before.T_map_submap @ edge.T_target_source


def _beginning(submap: Submap, start: Float[ndarray, "4 4"], submaps: list[Submap]) -> Sim3:
    """As large as the map is where it was told to be."""
    distances = [np.linalg.norm(s.T_map_submap.t - start[:3, 3]) for s in submaps]
    near = submaps[int(np.argmin(distances))]
    return submap.beginning_at(start, near.T_map_submap.s)
