"""Priors on the camera's way in bundle adjustment: what was predicted or known, and no leaps."""

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.spatial.transform import Rotation

from scal3r_ros.mapping.bundle_problem import BundleProblem, BundleState, huber_weight
from scal3r_ros.mapping.config import RefinementConfig

LEAP_HUBER = 3.0  # sigmas


def motion_residual(problem: BundleProblem, state: BundleState) -> Float[ndarray, "pairs 6"]:
    """(rotation, translation) between neighbours minus what was known before, in sigmas."""
    T = state.T_submap_cam
    R_previous = T[:-1, :3, :3].transpose(0, 2, 1)
    turned = problem.motion_prior[:, :3, :3].transpose(0, 2, 1) @ R_previous @ T[1:, :3, :3]
    rotation = Rotation.from_matrix(turned).as_rotvec()
    moved = np.einsum("nij,nj->ni", R_previous, T[1:, :3, 3] - T[:-1, :3, 3])
    difference = np.concatenate([rotation, moved - problem.motion_prior[:, :3, 3]], 1)
    return difference / problem.motion_sigma


def add_motion_prior(
    problem: BundleProblem,
    state: BundleState,
    H: Float[ndarray, "p p"],
    g: Float[ndarray, " p"],
) -> None:
    """Adds to H and g in place; the derivative by the previous frame's rotation is left out of
    the translation part, and d(rotation vector) is taken as identity: the prior is weak."""
    r = motion_residual(problem, state)
    weight = huber_weight(np.linalg.norm(r, axis=1), 1.0)
    for k in range(len(r)):
        R_previous = state.T_submap_cam[k, :3, :3].T
        R_next_previous = state.T_submap_cam[k + 1, :3, :3].T @ state.T_submap_cam[k, :3, :3]
        J = np.zeros((6, 12))
        J[:3, :3], J[:3, 6:9] = -R_next_previous, np.eye(3)
        J[3:, 3:6], J[3:, 9:] = -R_previous, R_previous
        J /= problem.motion_sigma[k][:, None]
        part = slice(6 * k, 6 * k + 12)
        H[part, part] += weight[k] * J.T @ J
        g[part] += weight[k] * J.T @ r[k]


def leap(
    problem: BundleProblem, state: BundleState, config: RefinementConfig, pace: float
) -> Float[ndarray, "turns 3"]:
    """Change of the velocity at every inner frame, in sigmas."""
    steps = np.diff(state.T_submap_cam[:, :3, 3], axis=0) / problem.interval[:, None]
    return np.diff(steps, axis=0) / (config.prior_leap * pace)


def add_leap_prior(
    problem: BundleProblem,
    state: BundleState,
    config: RefinementConfig,
    pace: float,
    H: Float[ndarray, "p p"],
    g: Float[ndarray, " p"],
) -> None:
    """Adds to H and g in place; linear in the positions."""
    r = leap(problem, state, config, pace)
    weight = huber_weight(np.linalg.norm(r, axis=1), LEAP_HUBER)
    for k in range(len(r)):
        before, after = 1 / problem.interval[k], 1 / problem.interval[k + 1]
        J = np.zeros((3, 18))
        for frame, share in enumerate((before, -before - after, after)):
            J[:, 6 * frame + 3 : 6 * frame + 6] = share * np.eye(3)
        J /= config.prior_leap * pace
        part = slice(6 * k, 6 * k + 18)
        H[part, part] += weight[k] * J.T @ J
        g[part] += weight[k] * J.T @ r[k]
