"""Sim(3) pose graph over submaps: incremental; in batch where a loop comes, to judge all loops.

A false loop that is believed ruins a map, so loops are never simply added: graduated non-convexity
(Yang et al., RA-L 2020) finds the largest set of them that the rest of the graph can bear.
"""

import logging

import gtsam
import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.spatial.transform import Rotation

from scal3r_ros.geometry.sim3 import Sim3
from scal3r_ros.mapping.config import PoseGraphConfig
from scal3r_ros.mapping.types import Edge

logger = logging.getLogger(__name__)

FREE = 1e6  # deviation of what a factor says nothing about
MOVED = 1e-4  # change of a pose, in its own units, that counts as moved
BELIEVED = 0.5  # weight of a loop
LOOSE = 100.0  # times its deviation: what is left of a bridge that loops contradict


def to_gtsam(T: Sim3) -> gtsam.Similarity3:
    """GTSAM's Similarity3 acts as s (R x + t)."""
    return gtsam.Similarity3(gtsam.Rot3(T.R), T.t / T.s, T.s)


def from_gtsam(T: gtsam.Similarity3) -> Sim3:
    s = T.scale()
    return Sim3(T.rotation().matrix(), s * np.asarray(T.translation()), s)


def _why(error: RuntimeError) -> str:
    """GTSAM's own first words."""
    return str(error).strip().split("\n")[0]


class PoseGraph:
    """Nodes are T_map_submap. The first node of each piece of the map is fixed: its gauge."""

    def __init__(self, config: PoseGraphConfig) -> None:
        self.config = config
        self.edges: list[Edge] = []
        self.poses: dict[int, Sim3] = {}
        self.gauges: list[int] = []  # the fixed node of every piece
        self.scales: dict[int, tuple[float, float]] = {}  # log map units per submap unit, deviation
        self.levels: dict[int, tuple[Float[ndarray, " 3"], float]] = {}  # up in a submap, deviation
        self.refused: set[int] = set()  # positions in `edges` of what contradicts the rest
        self._joints: set[int] = set()  # positions of edges that alone tie pieces together
        self._bridges: set[int] = set()  # positions of odometry that alone ties pieces together
        self._pieces: dict[int, int] = {}  # submap -> first node of its piece: images tie them
        self._roots: dict[int, int] = {}  # piece -> the gauge on which it hangs
        self._shifted: set[int] = set()  # moved by hand since the last solution
        self._stale = False  # what the incremental solver knows is no longer true
        self._restart()

    def add_submap(self, index: int, T_map_submap: Sim3, *, fixed: bool = False) -> None:
        self.poses[index] = T_map_submap
        self._new_values.insert(index, to_gtsam(T_map_submap))
        if fixed:
            self.gauges.append(index)
            self._pieces[index] = self._roots[index] = index
            self._new_factors.add(self._gauge_factor(index))

    def add_edge(self, edge: Edge) -> None:
        """An edge between two pieces of the map joins them; odometry only hangs a new piece on one.
        Other loops are judged when the graph is solved next."""
        if edge.source not in self._pieces and edge.kind == "odometry":
            self._pieces[edge.source] = edge.source
            self._roots[edge.source] = self._roots[self._pieces[edge.target]]
            self._bridges.add(len(self.edges))
        elif edge.source not in self._pieces:
            self._pieces[edge.source] = self._pieces[edge.target]
        elif self._pieces[edge.source] != self._pieces[edge.target] and edge.kind != "odometry":
            self._join(edge)
        self.edges.append(edge)
        self._stale = self._stale or edge.kind == "loop"
        self._new_factors.add(self._edge_factor(edge))

    def add_scale(self, index: int, log_scale: float, deviation: float) -> None:
        """What a metric source says of one submap: log map units per submap unit."""
        self._stale = self._stale or (index in self.gauges and index not in self.scales)
        self.scales[index] = (log_scale, deviation)
        self._new_factors.add(self._scale_factor(index))

    def add_level(self, index: int, up: Float[ndarray, " 3"], deviation: float) -> None:
        """Which way is up in a submap, and how surely [rad]: its tilt is held, not its heading."""
        self.levels[index] = (up / np.linalg.norm(up), deviation)
        self._new_factors.add(self._level_factor(index))

    def optimise(self) -> dict[int, Sim3]:
        """Takes in what was added; returns the submaps that moved."""
        if self._stale:
            return self.optimise_batch()
        try:
            self._isam.update(self._new_factors, self._new_values)
            self._isam.update()
            estimate = self._isam.calculateEstimate()
            self._new_factors = gtsam.NonlinearFactorGraph()
            self._new_values = gtsam.Values()
        except RuntimeError as error:  # indeterminate linear system
            logger.warning("iSAM2 gave up (%s): solving the whole graph", _why(error))
            return self.optimise_batch()
        return self._take(estimate)

    def optimise_batch(self) -> dict[int, Sim3]:
        """Everything at once, loops judged, and a fresh start for the incremental solver."""
        if not self.poses:
            return {}
        values = gtsam.Values()
        for index, T in self.poses.items():
            values.insert(index, to_gtsam(T))
        self.refused = self._contradicting(values)
        believed = self._factors(self.refused)
        estimate = gtsam.LevenbergMarquardtOptimizer(believed, values).optimize()
        self._restart()
        try:
            self._isam.update(believed, estimate)
        except RuntimeError as error:
            logger.warning("iSAM2 cannot go on (%s): solving in batch again", _why(error))
            self._restart()
            self._stale = True
        return self._take(estimate)

    def _factors(self, without: set[int]) -> gtsam.NonlinearFactorGraph:
        """All factors: edges first, in their order, but some. A piece never comes loose."""
        graph = gtsam.NonlinearFactorGraph()
        for position, edge in enumerate(self.edges):
            if position not in without:
                graph.add(self._edge_factor(edge))
        for position in sorted(self._bridges):
            graph.add(self._edge_factor(self.edges[position], LOOSE))
        for factor in (
            *map(self._gauge_factor, self.gauges),
            *map(self._scale_factor, self.scales),
            *map(self._level_factor, self.levels),
        ):
            graph.add(factor)
        return graph

    def _contradicting(self, values: gtsam.Values) -> set[int]:
        """Positions of loops and bridges that do not go together with the rest (truncated least
        squares)."""
        loops = {i for i, e in enumerate(self.edges) if e.kind == "loop"} - self._joints
        if not loops:
            return set()
        loops |= self._bridges
        everything = self._factors(set())
        parameters = gtsam.GncLMParams()
        parameters.setLossType(gtsam.GncLossType.TLS)
        parameters.setKnownInliers([i for i in range(everything.size()) if i not in loops])
        solver = gtsam.GncLMOptimizer(everything, values, parameters)
        solver.setInlierCostThresholdsAtProbability(self.config.loop_probability)
        solver.optimize()
        weights = solver.getWeights()
        return {i for i in loops if weights[i] < BELIEVED}

    def rescale(self, factor: float) -> dict[int, Sim3]:
        """Another unit for the whole map: relations of submaps stay what they are."""
        change = Sim3(np.eye(3), np.zeros(3), factor)
        self.poses = {index: change @ T for index, T in self.poses.items()}
        self._shifted = set(self.poses)
        log = float(np.log(factor))
        self.scales = {i: (value + log, sigma) for i, (value, sigma) in self.scales.items()}
        return self.optimise_batch()

    def piece(self, index: int) -> int | None:
        """The first node of a submap's piece of the map; None for one that is not in the graph."""
        return self._pieces.get(index)

    def _join(self, edge: Edge) -> None:
        """The younger side moves to where the edge puts it; if odometry did not tie it already, it
        gives up its gauge."""
        ends = self._pieces[edge.source], self._pieces[edge.target]
        young, old = max(ends), min(ends)
        roots = self._roots[young], self._roots[old]
        if roots[0] == roots[1]:
            moving = {i for i, piece in self._pieces.items() if piece == young}
        else:
            gone, stays = max(roots), min(roots)
            moving = {i for i, piece in self._pieces.items() if self._roots[piece] == gone}
            self._roots |= {piece: stays for piece, root in self._roots.items() if root == gone}
            self.gauges.remove(gone)
            self._joints.add(len(self.edges))
        if edge.source in moving:
            change = self.poses[edge.target] @ edge.T_target_source
            change = change @ self.poses[edge.source].inverse()
        else:
            change = self.poses[edge.source] @ edge.T_target_source.inverse()
            change = change @ self.poses[edge.target].inverse()
        for index in moving:
            self.poses[index] = change @ self.poses[index]
            self._shifted.add(index)
        self._pieces |= {i: old for i, piece in self._pieces.items() if piece == young}
        self._stale = True

    @property
    def loops(self) -> int:
        """Loops that are believed."""
        loops = {i for i, edge in enumerate(self.edges) if edge.kind == "loop"}
        return len(loops - self.refused)

    def covariance(self, index: int) -> Float[ndarray, "7 7"]:
        """Marginal of (rotation, translation, log scale) in the submap's own frame; of a graph that
        iSAM2 could not take, nothing is known."""
        if not self._isam.valueExists(index):
            return np.eye(7) * FREE
        return np.asarray(self._isam.marginalCovariance(index))

    def residual(self, edge: Edge) -> Float[ndarray, " 7"]:
        """(rotation, translation, log scale) by which an edge disagrees with the graph."""
        predicted = self.poses[edge.target].inverse() @ self.poses[edge.source]
        return (edge.T_target_source.inverse() @ predicted).log()

    def _restart(self) -> None:
        parameters = gtsam.ISAM2Params()
        parameters.setRelinearizeThreshold(0.01)
        parameters.setFactorization("QR")  # kilometres of chain are too much for Cholesky
        self._isam = gtsam.ISAM2(parameters)
        self._new_factors = gtsam.NonlinearFactorGraph()
        self._new_values = gtsam.Values()
        self._stale = False

    def _gauge_factor(self, index: int) -> gtsam.NonlinearFactor:
        scale = FREE if index in self.scales else 1e-4  # what tells metres tells it of these, too
        noise = gtsam.noiseModel.Diagonal.Sigmas(np.array([1e-4] * 6 + [scale]))
        return gtsam.PriorFactorSimilarity3(index, to_gtsam(self.poses[index]), noise)

    def _edge_factor(self, edge: Edge, loose: float = 1.0) -> gtsam.NonlinearFactor:
        noise = self._noise(edge, loose)
        if edge.kind != "overlap":
            noise = self._robust(noise)
        T = to_gtsam(edge.T_target_source)
        return gtsam.BetweenFactorSimilarity3(edge.target, edge.source, T, noise)

    def _scale_factor(self, index: int) -> gtsam.NonlinearFactor:
        """A prior on the log scale alone: the rest of the pose is left free."""
        log_scale, deviation = self.scales[index]
        T = self.poses[index]
        noise = self._robust(gtsam.noiseModel.Diagonal.Sigmas(np.array([FREE] * 6 + [deviation])))
        wanted = to_gtsam(Sim3(T.R, T.t, float(np.exp(log_scale))))
        return gtsam.PriorFactorSimilarity3(index, wanted, noise)

    def _level_factor(self, index: int) -> gtsam.NonlinearFactor:
        """A prior on tilt alone: turns about the vertical, `up` in the submap, are free."""
        up, deviation = self.levels[index]
        T = self.poses[index]
        turn = Rotation.align_vectors([0, 0, 1], T.R @ up)[0]
        information = np.eye(7) / FREE**2
        information[:3, :3] += (np.eye(3) - np.outer(up, up)) / deviation**2
        noise = self._robust(gtsam.noiseModel.Gaussian.Information(information))
        wanted = to_gtsam(Sim3(turn.as_matrix() @ T.R, T.t, T.s))
        return gtsam.PriorFactorSimilarity3(index, wanted, noise)

    def _robust(self, noise: gtsam.noiseModel.Base) -> gtsam.noiseModel.Base:
        kernel = gtsam.noiseModel.mEstimator.Huber.Create(self.config.huber)
        return gtsam.noiseModel.Robust.Create(kernel, noise)

    def _noise(self, edge: Edge, loose: float) -> gtsam.noiseModel.Base:
        units = np.array([1.0] * 3 + [edge.T_target_source.s] * 3 + [1.0])  # GTSAM's is t / s
        information = edge.information * np.outer(units, units) / loose**2
        return gtsam.noiseModel.Gaussian.Information(information)

    def _take(self, estimate: gtsam.Values) -> dict[int, Sim3]:
        moved = {index: self.poses[index] for index in self._shifted}
        self._shifted = set()
        indices = list(self.poses)
        solved = np.stack([estimate.atSimilarity3(index).matrix() for index in indices])
        before = np.stack([T.as_matrix() for T in self.poses.values()])
        s = 1 / solved[:, 3, 3]  # GTSAM's matrix is [R t; 0 1/s]
        after = solved[:, :3] * s[:, None, None]
        change = np.abs(after - before[:, :3]).max(axis=(1, 2))
        for k in np.flatnonzero(change > MOVED * s):
            R, t = solved[k, :3, :3].copy(), after[k, :, 3].copy()  # no view keeps all the rest
            moved[indices[k]] = Sim3(R, t, float(s[k]))
        self.poses |= moved
        return moved
