"""Bundle adjustment of one chunk: poses and one log depth per track, Gauss-Newton in numpy.

A point lies on the ray of the first frame that saw it, so it has one unknown, and its elimination
(Schur complement) is a division. Priors: the predicted depth of every track, the motion between
neighbouring frames (predicted, or known from the chunk before), and a camera that does not leap:
with them neither pure rotation nor a link of few features is a special case.
"""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.linalg import cho_factor, cho_solve
from scipy.spatial.transform import Rotation

from scal3r_ros.mapping.bundle_problem import BundleProblem, BundleState, huber, huber_weight
from scal3r_ros.mapping.config import RefinementConfig
from scal3r_ros.mapping.motion_priors import (
    LEAP_HUBER,
    add_leap_prior,
    add_motion_prior,
    leap,
    motion_residual,
)

MIN_Z = 0.02  # of the median depth: nearer points would blow up the projection
MAX_STEP = 0.7  # of a log depth in one iteration
PRIOR_DEPTH_HUBER = 1.5  # sigmas
MIN_PACE = 0.005  # of the median depth, between frames: slower is standing still


@dataclass(frozen=True, eq=False)
class Linearisation:
    residual: Float[ndarray, "n 2"]  # pixels
    d_anchor: Float[ndarray, "n 2 6"]  # by rotation (body), translation (submap)
    d_frame: Float[ndarray, "n 2 6"]
    d_depth: Float[ndarray, "n 2"]


def adjust(
    problem: BundleProblem, state: BundleState, config: RefinementConfig, iterations: int
) -> tuple[BundleState, float]:
    """Levenberg-Marquardt; the robust cost only ever falls. Returns it beside the state."""
    damping = 1e-4
    pace = typical_pace(problem, state)
    cost = robust_cost(problem, state, config, pace)
    for _ in range(iterations):
        step_pose, step_depth = _solve(problem, state, config, damping, pace)
        trial = _moved(state, step_pose, step_depth)
        trial_cost = robust_cost(problem, trial, config, pace)
        if trial_cost < cost:
            settled = cost - trial_cost < 1e-4 * cost
            state, cost, damping = trial, trial_cost, max(damping / 5, 1e-8)
            if settled:
                break
        else:
            damping *= 20
            if damping > 1e4:
                break
    return state, cost


def residuals(problem: BundleProblem, state: BundleState) -> Float[ndarray, "n 2"]:
    """Reprojection errors, pixels."""
    y = _in_camera(problem, state)
    return (y[:, :2] / y[:, 2:] - problem.xy) * problem.focal[problem.frame]


def points(problem: BundleProblem, state: BundleState) -> Float[ndarray, "m 3"]:
    """Landmarks in the submap frame."""
    T = state.T_submap_cam[problem.anchor]
    p = problem.ray * np.exp(state.log_depth)[:, None]
    return np.einsum("nij,nj->ni", T[:, :3, :3], p) + T[:, :3, 3]


def typical_pace(problem: BundleProblem, state: BundleState) -> float:
    """Median distance between neighbouring frames, submap units per median interval."""
    steps = np.diff(state.T_submap_cam[:, :3, 3], axis=0) / problem.interval[:, None]
    least = MIN_PACE * float(np.exp(np.median(problem.log_depth_prior)))
    return max(float(np.median(np.linalg.norm(steps, axis=1))), least)


def robust_cost(
    problem: BundleProblem, state: BundleState, config: RefinementConfig, pace: float
) -> float:
    """Huber costs of all pixels and priors, in units of (pixel sigma = 1)."""
    pixel = np.linalg.norm(residuals(problem, state), axis=1)
    depth = np.abs(state.log_depth - problem.log_depth_prior) / problem.depth_sigma
    motion = np.linalg.norm(motion_residual(problem, state), axis=1)
    return float(
        huber(pixel, config.huber_px).sum()
        + huber(depth, PRIOR_DEPTH_HUBER).sum()
        + huber(motion, 1.0).sum()
        + huber(np.linalg.norm(leap(problem, state, config, pace), axis=1), LEAP_HUBER).sum()
    )


def _in_camera(problem: BundleProblem, state: BundleState) -> Float[ndarray, "n 3"]:
    T = state.T_submap_cam[problem.frame]
    offset = points(problem, state)[problem.track] - T[:, :3, 3]
    y = np.einsum("nji,nj->ni", T[:, :3, :3], offset)
    y[:, 2] = np.maximum(y[:, 2], MIN_Z * np.exp(np.median(problem.log_depth_prior)))
    return y


def _skew(v: Float[ndarray, "n 3"]) -> Float[ndarray, "n 3 3"]:
    x, y, z = v.T
    zero = np.zeros_like(x)
    return np.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).reshape(-1, 3, 3)


def linearise(problem: BundleProblem, state: BundleState) -> Linearisation:
    """Residuals and their derivatives by the rotation (body) and translation (submap) of the
    anchor and of the observing frame, and by the log depth."""
    T_a = state.T_submap_cam[problem.anchor]
    R_a = T_a[:, :3, :3]
    p = problem.ray * np.exp(state.log_depth)[:, None]
    arm = np.einsum("nij,nj->ni", R_a, p)
    turn = (-R_a @ _skew(p))[problem.track]
    R_j = state.T_submap_cam[problem.frame][:, :3, :3]
    y = _in_camera(problem, state)
    fx, fy = problem.focal[problem.frame].T / y[:, 2]
    zero = np.zeros_like(fx)
    d_y = np.stack(
        [fx, zero, -fx * y[:, 0] / y[:, 2], zero, fy, -fy * y[:, 1] / y[:, 2]], 1
    ).reshape(-1, 2, 3)
    d_point = d_y @ R_j.transpose(0, 2, 1)
    focal = problem.focal[problem.frame]
    return Linearisation(
        residual=(y[:, :2] / y[:, 2:] - problem.xy) * focal,
        d_anchor=np.concatenate([d_point @ turn, d_point], axis=2),
        d_frame=np.concatenate([d_y @ _skew(y), -d_point], axis=2),
        d_depth=np.einsum("nij,nj->ni", d_point, arm[problem.track]),
    )


def _solve(
    problem: BundleProblem,
    state: BundleState,
    config: RefinementConfig,
    damping: float,
    pace: float,
) -> tuple[Float[ndarray, "s 6"], Float[ndarray, " m"]]:
    lin = linearise(problem, state)
    s, m = len(state.T_submap_cam), len(state.log_depth)
    weight = np.sqrt(huber_weight(np.linalg.norm(lin.residual, axis=1), config.huber_px))
    r = lin.residual * weight[:, None]
    d_pose = np.concatenate([lin.d_anchor, lin.d_frame], axis=2) * weight[:, None, None]
    d_depth = lin.d_depth * weight[:, None]
    H, g = _pose_blocks(problem, d_pose, r, s)
    away = (state.log_depth - problem.log_depth_prior) / problem.depth_sigma
    pull = huber_weight(np.abs(away), PRIOR_DEPTH_HUBER) / problem.depth_sigma
    h = np.bincount(problem.track, (d_depth**2).sum(1), m)
    h = (h + pull / problem.depth_sigma) * (1 + damping) + 1e-9
    g_depth = np.bincount(problem.track, (d_depth * r).sum(1), m) + pull * away
    W = _depth_rows(problem, d_pose, d_depth, s)
    add_motion_prior(problem, state, H, g)
    add_leap_prior(problem, state, config, pace, H, g)
    H += np.diag(np.diag(H) * damping + 1e-9)
    H -= W.T @ (W / h[:, None])
    g -= W.T @ (g_depth / h)
    free = np.delete(np.arange(6 * s), np.arange(6) + 6 * problem.reference)
    step = np.zeros(6 * s)
    step[free] = -cho_solve(cho_factor(H[np.ix_(free, free)]), g[free])
    step_depth = -(g_depth + W @ step) / h
    return step.reshape(s, 6), np.clip(step_depth, -MAX_STEP, MAX_STEP)


def _pose_blocks(
    problem: BundleProblem, d_pose: Float[ndarray, "n 2 12"], r: Float[ndarray, "n 2"], frames: int
) -> tuple[Float[ndarray, "p p"], Float[ndarray, " p"]]:
    """Normal matrix and gradient of the poses: one product for every pair of anchor and frame."""
    order, starts, pairs = problem.pairs
    rows = np.concatenate([d_pose, r[:, :, None]], axis=2)[order].reshape(-1, 13)
    products = np.empty((len(pairs), 13, 13))
    for k, (begin, end) in enumerate(pairwise((2 * starts).tolist())):
        np.matmul(rows[begin:end].T, rows[begin:end], out=products[k])
    H, g = np.zeros((frames, frames, 6, 6)), np.zeros((frames, 6))
    parts = slice(0, 6), slice(6, 12)  # of the anchor, of the frame
    for i, row in enumerate(parts):
        np.add.at(g, pairs[:, i], products[:, row, 12])
        for j, column in enumerate(parts):
            np.add.at(H, (pairs[:, i], pairs[:, j]), products[:, row, column])
    return H.transpose(0, 2, 1, 3).reshape(6 * frames, 6 * frames), g.reshape(-1)


def _depth_rows(
    problem: BundleProblem,
    d_pose: Float[ndarray, "n 2 12"],
    d_depth: Float[ndarray, "n 2"],
    frames: int,
) -> Float[ndarray, "m p"]:
    """Mixed derivatives of every track's depth and all poses."""
    mixed = np.einsum("nki,nk->ni", d_pose, d_depth)
    W = np.zeros((len(problem.anchor), frames, 6))
    W[problem.track, problem.frame] = mixed[:, 6:]  # a track is seen once in a frame
    tracks, first = np.unique(problem.track, return_index=True)
    W[tracks, problem.anchor[tracks]] += np.add.reduceat(mixed[:, :6], first)
    return W.reshape(len(W), -1)


def _moved(
    state: BundleState, step_pose: Float[ndarray, "s 6"], step_depth: Float[ndarray, " m"]
) -> BundleState:
    T = state.T_submap_cam.copy()
    T[:, :3, :3] = T[:, :3, :3] @ Rotation.from_rotvec(step_pose[:, :3]).as_matrix()
    T[:, :3, 3] += step_pose[:, 3:]
    return replace(state, T_submap_cam=T, log_depth=state.log_depth + step_depth)
