"""Metres per map unit: a robust filter in log scale over whatever observes it.

Until it is locked the map keeps the network's own unit; then the whole map changes its unit once,
said aloud as a correction, and from there on every observation holds the scale of its own submap,
so that it cannot drift.
"""

from collections import deque
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from scal3r_ros.geometry.align import MAD_TO_SIGMA
from scal3r_ros.mapping.config import ScaleConfig
from scal3r_ros.mapping.odometry_ties import OdometryTies
from scal3r_ros.mapping.pose_graph import PoseGraph
from scal3r_ros.mapping.scale_sources import Observation, ScaleSources
from scal3r_ros.mapping.types import Chunk, Edge, Submap

LEVEL_RAD = 0.035  # deviation of the up that an IMU tells of a submap
ASSUMED_DEVIATION = 0.05  # of an observation that says nothing about itself
DRIFT = 0.03  # of the map's log scale, from an observation to the next
MEDIAN_DEVIATION = 1.25  # of a median over that of a mean
MAX_DISCORD = 2.0  # observations that differ by more do not know how wrong they are


class ScaleEstimator:
    """Weighted median of recent log-scale observations; locked once it is sure.

    How sure it is follows from what the observations say of themselves, as long as neighbours
    differ by no more than that and the map's own drift. How far all of them lie apart tells
    nothing: before the lock the map's unit drifts, which the lock ends.
    """

    def __init__(self, config: ScaleConfig) -> None:
        self.config = config
        self._logs: deque[tuple[float, float]] = deque(maxlen=config.window)  # and deviation
        self.scale = config.fixed if config.source == "fixed" else 1.0
        self.locked = config.source == "fixed"
        self.told = False  # True: somebody has told the scale, and no source overrules it

    def __len__(self) -> int:
        """Observations that count now."""
        return len(self._logs)

    @property
    def metric(self) -> bool:
        """Whether lengths are metres."""
        return self.locked

    @property
    def deviation(self) -> float:
        """Relative standard deviation of the scale; infinity where that cannot be told."""
        if self.config.source == "fixed":
            return 0.0
        if len(self._logs) < 2:
            return np.inf
        deviations = np.array(self._logs)[:, 1]
        alone = MEDIAN_DEVIATION / float(np.sqrt((1 / deviations**2).sum()))
        return alone * max(1.0, self._discord())

    def observe(self, observed: float, deviation: float = ASSUMED_DEVIATION) -> bool:
        """Metres per map unit as one source sees it; True where the map shall change its unit.

        Raises ValueError on an observation that is no positive number.
        """
        if not (np.isfinite(observed) and observed > 0):
            raise ValueError(f"observed scale must be positive and finite, got {observed}")
        if self.config.source == "fixed":
            return False
        self._logs.append((float(np.log(observed)), max(deviation, 1e-6)))
        if self.locked or len(self._logs) < self.config.lock_after:
            return False
        if self.deviation > self.config.lock_tolerance or self._discord() > MAX_DISCORD:
            return False
        self.scale, self.locked = float(np.exp(self._median())), True
        return True

    def _discord(self) -> float:
        """By how much more neighbours differ than they say, robustly; 1 is honest."""
        logs, deviations = np.array(self._logs).T
        expected = np.sqrt(deviations[1:] ** 2 + deviations[:-1] ** 2 + DRIFT**2)
        return MAD_TO_SIGMA * float(np.median(np.abs(np.diff(logs)) / expected))

    @property
    def guess(self) -> float:
        """Metres per map unit as far as is known."""
        return self.scale if self.locked or not self._logs else float(np.exp(self._median()))

    def set(self, scale: float) -> None:
        """Metres per map unit as somebody tells it: locked; 0 unlocks."""
        self._logs.clear()
        self.locked = self.told = scale > 0
        if scale > 0:
            self.scale = scale

    def _median(self) -> float:
        logs, deviations = np.array(self._logs).T
        return _weighted_median(logs, 1 / deviations**2)


def _weighted_median(values: Float[ndarray, " n"], weights: Float[ndarray, " n"]) -> float:
    order = np.argsort(values)
    middle = np.searchsorted(np.cumsum(weights[order]), weights.sum() / 2)
    return float(values[order][middle])


class MetricScale:
    """Source, filter, and what they do to the graph."""

    def __init__(self, config: ScaleConfig, graph: PoseGraph) -> None:
        self.estimator = ScaleEstimator(config)
        self.sources = ScaleSources(config)
        self._graph = graph
        self._seen: dict[int, Observation] = {}  # by submap
        self._odometry = OdometryTies()

    @property
    def metric(self) -> bool:
        return self.estimator.metric

    def go_on_from(self, before: "MetricScale", shift: int) -> None:
        """What was measured before other submaps were put in front of one's own counts on; but not
        how long the map's unit was, for that may be another one soon."""
        self.sources, self.estimator.told = before.sources, before.estimator.told
        self._seen = {index + shift: seen for index, seen in before._seen.items()}

    def measure(self, chunk: Chunk, submap: Submap) -> float | None:
        """Asks the source about a new submap. The factor by which the map's unit changes now, or
        None. Before the lock it only listens; from then on what was seen of every submap, earlier
        ones too, holds the scale of that submap, unless somebody has told the scale."""
        seen = self.sources.observe(chunk, submap)
        if seen is None:
            return None
        self._seen[submap.index] = seen
        if self.metric:
            if not self.estimator.told:
                self._hold(submap.index, 1.0)
            return None
        place = self._graph.poses[submap.index]
        if not self.estimator.observe(seen.observed / place.s, seen.deviation):
            return None
        for index in self._seen:
            self._hold(index, self.estimator.scale)
        return self.estimator.scale

    def ties(
        self, chunk: Chunk, submap: Submap, before: Sequence[Submap], edges: Sequence[Edge]
    ) -> list[Edge]:
        """What the robot's odometry says of a new submap and the one before it, which share images
        if `edges` say so; nothing while lengths are not metres."""
        tie = self._odometry.tie(chunk, submap, before[-1] if before else None, edges)
        return [tie] if tie is not None and self.metric else []

    def level(self, submap: Submap) -> bool:
        """What the IMU says of the submap's tilt goes into the graph; False: it says nothing."""
        up = self.sources.imu_up(submap)
        if up is not None:
            self._graph.add_level(submap.index, up, LEVEL_RAD)
        return up is not None

    def said_of(self, submap: Submap) -> tuple[float, float] | None:
        """(observed, after the filter) metres per unit of a submap; None where nothing was seen."""
        seen = self._seen.get(submap.index)
        if seen is None:
            return None
        return seen.observed, submap.T_map_submap.s * (1.0 if self.metric else self.estimator.guess)

    def _hold(self, index: int, metres_per_map_unit: float) -> None:
        seen = self._seen[index]
        log_scale = float(np.log(seen.observed / metres_per_map_unit))
        self._graph.add_scale(index, log_scale, seen.deviation)
