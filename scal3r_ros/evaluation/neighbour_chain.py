"""The published back end, for comparison: a chain of robust Sim(3) fits between neighbours and
frames taken from the middle of their chunk (Scal3R 3.3; VGGT-Long's way as well)."""

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from scal3r_ros.geometry.align import nearest_rotation
from scal3r_ros.geometry.sim3 import Sim3

HUBER = 0.1  # absolute, in the target chunk's unit: the published value
ROUNDS = 5
SETTLED_RAD = np.deg2rad(0.1)


def fit_neighbour(
    xyz_a: Float[ndarray, "n 3"],
    xyz_b: Float[ndarray, "n 3"],
    confidence_a: Float[ndarray, " n"],
    confidence_b: Float[ndarray, " n"],
) -> Sim3:
    """T_a_b by reweighted least squares, the same points of the same pixels in both chunks."""
    floor = 0.1 * min(np.median(confidence_a), np.median(confidence_b))
    good = (confidence_a > floor) & (confidence_b > floor)
    xyz_a, xyz_b = xyz_a[good].astype(np.float64), xyz_b[good].astype(np.float64)
    start = np.sqrt(confidence_a[good] * confidence_b[good]).astype(np.float64)
    fit = weighted_fit(xyz_a, xyz_b, start)
    cost = np.inf
    for _ in range(ROUNDS):
        residual = np.linalg.norm(xyz_a - fit.apply(xyz_b), axis=1)
        weight = start * np.minimum(1, HUBER / np.maximum(residual, 1e-12))
        better = weighted_fit(xyz_a, xyz_b, weight)
        total = _huber_cost(residual)
        if _settled(fit, better) or abs(cost - total) < 1e-9 * cost:
            return fit  # the published program forgets the last round
        fit, cost = better, total
    return fit


def weighted_fit(
    xyz_a: Float[ndarray, "n 3"], xyz_b: Float[ndarray, "n 3"], weight: Float[ndarray, " n"]
) -> Sim3:
    """Scale as the ratio of the weighted radii, then the rotation (Kabsch)."""
    weight = weight / weight.sum()
    mean_a, mean_b = weight @ xyz_a, weight @ xyz_b
    a, b = xyz_a - mean_a, xyz_b - mean_b
    s = float(np.sqrt((weight @ (a**2).sum(1)) / (weight @ (b**2).sum(1))))
    R = nearest_rotation((weight[:, None] * a).T @ b)
    return Sim3(R, mean_a - s * R @ mean_b, s)


def chain(neighbours: list[Sim3]) -> list[Sim3]:
    """T_first_chunk of every chunk; `neighbours[j]` is T_j_j+1."""
    placed = [Sim3.identity()]
    for T in neighbours:
        placed.append(placed[-1] @ T)
    return placed


def owned_frames(lengths: list[int], overlap: int) -> list[Bool[ndarray, " s"]]:
    """Which frames each chunk contributes: of shared ones the later chunk drops the first half,
    the earlier one the rest, so that each frame comes from near the middle of its chunk."""
    half = overlap // 2
    owned = []
    for index, length in enumerate(lengths):
        keep = np.ones(length, bool)
        if index > 0:
            keep[:half] = False
        if index < len(lengths) - 1:
            keep[length - (overlap - half) :] = False
        owned.append(keep)
    return owned


def _huber_cost(residual: Float[ndarray, " n"]) -> float:
    inside = residual <= HUBER
    return float(np.where(inside, residual**2 / 2, HUBER * (residual - HUBER / 2)).sum())


def _settled(before: Sim3, after: Sim3) -> bool:
    turned = np.clip((np.trace(before.R.T @ after.R) - 1) / 2, -1, 1)
    moved = abs(after.s - before.s) + np.linalg.norm(after.t - before.t)
    return bool(moved < 1e-9 and np.arccos(turned) < SETTLED_RAD)
