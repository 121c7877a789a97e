"""Priors on the camera's way in bundle adjustment: what was predicted or known, and no leaps."""

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from scal3r_ros.mapping.bundle_problem import BundleProblem, BundleState, huber_weight
from scal3r_ros.mapping.config import RefinementConfig

LEAP_HUBER = 3.0  # sigmas


def motion_residual(problem: BundleProblem, state: BundleState) -> Float[ndarray, "pairs 6"]:
    """(rotation, translation) between neighbours minus what was known before, in sigmas."""
    T = state.T_submap_cam
    R_previous = T[:-1, :3, :3].transpose(0, 2, 1)
    turned = problem.motion_prior[:, :3, :3].transpose(0, 2, 1) @ R_previous @ T[1:, :3, :3]
    rotation = _rotation_vectors(turned)
    moved = np.einsum("nij,nj->ni", R_previous, T[1:, :3, 3] - T[:-1, :3, 3])
    difference = np.concatenate([rotation, moved - problem.motion_prior[:, :3, 3]], 1)
    return difference / problem.motion_sigma


def _rotation_vectors(R: Float[ndarray, "k 3 3"]) -> Float[ndarray, "k 3"]:
    """A tenth of SciPy's time for a handful; not for half turns."""
    axis = 0.5 * np.stack([R[:, j, i] - R[:, i, j] for i, j in ((1, 2), (2, 0), (0, 1))], axis=1)
    sine = np.linalg.norm(axis, axis=1, keepdims=True)
    angle = np.arctan2(sine[:, 0], 0.5 * (np.trace(R, axis1=1, axis2=2) - 1))
    return axis * (angle[:, None] / np.maximum(sine, 1e-12))


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
    R_previous = state.T_submap_cam[:-1, :3, :3].transpose(0, 2, 1)
    R_next = state.T_submap_cam[1:, :3, :3].transpose(0, 2, 1)
    J = np.zeros((len(r), 6, 12))
    J[:, :3, :3], J[:, :3, 6:9] = -R_next @ R_previous.transpose(0, 2, 1), np.eye(3)
    J[:, 3:, 3:6], J[:, 3:, 9:] = -R_previous, R_previous
    J /= problem.motion_sigma[:, :, None]
    _add(J, r, weight, H, g)


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
    before, after = 1 / problem.interval[:-1], 1 / problem.interval[1:]
    J = np.zeros((len(r), 3, 18))
    for frame, share in enumerate((before, -before - after, after)):
        J[:, :, 6 * frame + 3 : 6 * frame + 6] = share[:, None, None] * np.eye(3)
    _add(J / (config.prior_leap * pace), r, weight, H, g)


def _add(
    J: Float[ndarray, "k d q"],
    r: Float[ndarray, "k d"],
    weight: Float[ndarray, " k"],
    H: Float[ndarray, "p p"],
    g: Float[ndarray, " p"],
) -> None:
    """Adds to H and g in place; the k-th residual depends on the frames from the k-th on."""
    weighted = weight[:, None, None] * J.transpose(0, 2, 1)
    normal, right = weighted @ J, (weighted @ r[:, :, None])[:, :, 0]
    for k in range(len(r)):
        part = slice(6 * k, 6 * k + J.shape[2])
        H[part, part] += normal[k]
        g[part] += right[k]
