"""Sim(3) pose graph over submaps: incremental with robust loops, batch where that fails."""

import logging

import gtsam
import numpy as np
from jaxtyping import Float
from numpy import ndarray

from scal3r_ros.geometry.sim3 import Sim3
from scal3r_ros.mapping.config import PoseGraphConfig
from scal3r_ros.mapping.types import Edge

logger = logging.getLogger(__name__)

MOVED = 1e-4  # change of a pose, in its own units, that counts as moved


def to_gtsam(T: Sim3) -> gtsam.Similarity3:
    """GTSAM's Similarity3 acts as s (R x + t)."""
    return gtsam.Similarity3(gtsam.Rot3(T.R), T.t / T.s, T.s)


def from_gtsam(T: gtsam.Similarity3) -> Sim3:
    s = T.scale()
    return Sim3(T.rotation().matrix(), s * np.asarray(T.translation()), s)


class PoseGraph:
    """Nodes are T_map_submap. The first node of each component is fixed: the gauge."""

    def __init__(self, config: PoseGraphConfig) -> None:
        self.config = config
        self.edges: list[Edge] = []
        self.poses: dict[int, Sim3] = {}
        self._all = gtsam.NonlinearFactorGraph()
        self._restart()

    def add_submap(self, index: int, T_map_submap: Sim3, *, fixed: bool = False) -> None:
        self.poses[index] = T_map_submap
        self._new_values.insert(index, to_gtsam(T_map_submap))
        if fixed:
            noise = gtsam.noiseModel.Isotropic.Sigma(7, 1e-4)
            self._add(gtsam.PriorFactorSimilarity3(index, to_gtsam(T_map_submap), noise))

    def add_edge(self, edge: Edge) -> None:
        """Loop edges get a robust kernel; neighbours a weak prior that the scale walks slowly."""
        self.edges.append(edge)
        noise = self._noise(edge)
        if edge.kind == "loop":
            kernel = gtsam.noiseModel.mEstimator.Huber.Create(self.config.huber)
            noise = gtsam.noiseModel.Robust.Create(kernel, noise)
        T = to_gtsam(edge.T_target_source)
        self._add(gtsam.BetweenFactorSimilarity3(edge.target, edge.source, T, noise))

    def optimise(self) -> dict[int, Sim3]:
        """Takes in what was added; returns the submaps that moved."""
        try:
            self._isam.update(self._new_factors, self._new_values)
            self._isam.update()
            estimate = self._isam.calculateEstimate()
            self._new_factors = gtsam.NonlinearFactorGraph()
            self._new_values = gtsam.Values()
        except RuntimeError as error:  # indeterminate linear system
            logger.warning("iSAM2 gave up (%s): solving the whole graph", str(error).split("\n")[0])
            return self.optimise_batch()
        return self._take(estimate)

    def optimise_batch(self) -> dict[int, Sim3]:
        """Levenberg-Marquardt over everything, and a fresh start for the incremental solver."""
        values = gtsam.Values()
        for index, T in self.poses.items():
            values.insert(index, to_gtsam(T))
        estimate = gtsam.LevenbergMarquardtOptimizer(self._all, values).optimize()
        self._restart()
        self._isam.update(self._all, estimate)
        return self._take(estimate)

    def covariance(self, index: int) -> Float[ndarray, "7 7"]:
        """Marginal of (rotation, translation, log scale) in the submap's own frame."""
        return np.asarray(self._isam.marginalCovariance(index))

    def residual(self, edge: Edge) -> Float[ndarray, " 7"]:
        """(rotation, translation, log scale) by which an edge disagrees with the graph."""
        predicted = self.poses[edge.target].inverse() @ self.poses[edge.source]
        return (edge.T_target_source.inverse() @ predicted).log()

    def _restart(self) -> None:
        parameters = gtsam.ISAM2Params()
        parameters.setRelinearizeThreshold(0.01)
        self._isam = gtsam.ISAM2(parameters)
        self._new_factors = gtsam.NonlinearFactorGraph()
        self._new_values = gtsam.Values()

    def _add(self, factor: gtsam.NonlinearFactor) -> None:
        self._all.add(factor)
        self._new_factors.add(factor)

    def _noise(self, edge: Edge) -> gtsam.noiseModel.Base:
        deviations = 1 / np.sqrt(np.diag(edge.information))
        floors = [self.config.rotation_floor] * 3
        floors += [self.config.translation_floor * deviations[3] / max(deviations[0], 1e-9)] * 3
        floors += [self.config.scale_floor]
        deviations = np.maximum(deviations, floors)
        deviations[3:6] /= edge.T_target_source.s  # GTSAM's translation is t / s
        return gtsam.noiseModel.Diagonal.Sigmas(deviations)

    def _take(self, estimate: gtsam.Values) -> dict[int, Sim3]:
        moved = {}
        for index, old in self.poses.items():
            new = from_gtsam(estimate.atSimilarity3(index))
            if np.abs(new.as_matrix() - old.as_matrix()).max() > MOVED * max(new.s, old.s):
                moved[index] = new
        self.poses |= moved
        return moved
