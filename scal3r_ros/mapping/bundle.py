"""Bundle adjustment of one chunk: poses, one log depth per track, and the focal length of a camera
that is not calibrated; Gauss-Newton in numpy.

A point lies on the ray of the first frame that saw it, so it has one unknown, and its elimination
(Schur complement) is a division. Priors: the predicted depth of every track, the motion between
neighbouring frames (predicted, or known from the chunk before), and a camera that does not leap:
with them neither pure rotation nor a link of few features is a special case.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
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
SETTLED = 1e-3  # share of the cost: an iteration that gains less is the last
MAX_STEP = 0.7  # of a log depth in one iteration
MAX_ZOOM = 0.2  # of the log focal length
PRIOR_DEPTH_HUBER = 1.5  # sigmas
MIN_PACE = 0.005  # of the median depth, between frames: slower is standing still


def adjust(
    problem: BundleProblem, state: BundleState, config: RefinementConfig, iterations: int
) -> tuple[BundleState, float]:
    """Levenberg-Marquardt; the robust cost only ever falls. Returns it beside the state."""
    damping = 1e-4
    pace = typical_pace(problem, state)
    cost = robust_cost(problem, state, config, pace)
    for _ in range(iterations):
        trial = _moved(state, *_solve(problem, state, config, damping, pace))
        trial_cost = robust_cost(problem, trial, config, pace)
        if trial_cost < cost:
            settled = cost - trial_cost < SETTLED * cost
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
    zoom = np.exp(state.log_focal)
    return ((zoom * y[:2] / y[2]).T - problem.xy) * problem.focal[problem.frame]


def points(problem: BundleProblem, state: BundleState) -> Float[ndarray, "m 3"]:
    """Landmarks in the submap frame."""
    T = state.T_submap_cam[problem.anchor]
    return np.einsum("nij,nj->ni", T[:, :3, :3], _in_anchor(problem, state)) + T[:, :3, 3]


def typical_pace(problem: BundleProblem, state: BundleState) -> float:
    """Median distance between neighbouring frames, submap units per median interval."""
    steps = np.diff(state.T_submap_cam[:, :3, 3], axis=0) / problem.interval[:, None]
    least = MIN_PACE * problem.median_depth
    return max(float(np.median(np.linalg.norm(steps, axis=1))), least)


def robust_cost(
    problem: BundleProblem, state: BundleState, config: RefinementConfig, pace: float
) -> float:
    """Huber costs of all pixels and priors, in units of (pixel sigma = 1)."""
    pixel = np.hypot(*residuals(problem, state).T)
    depth = np.abs(state.log_depth - problem.log_depth_prior) / problem.depth_sigma
    motion = np.linalg.norm(motion_residual(problem, state), axis=1)
    return _focal_cost(problem, state) + float(
        huber(pixel, config.huber_px).sum()
        + huber(depth, PRIOR_DEPTH_HUBER).sum()
        + huber(motion, 1.0).sum()
        + huber(np.linalg.norm(leap(problem, state, config, pace), axis=1), LEAP_HUBER).sum()
    )


def _focal_cost(problem: BundleProblem, state: BundleState) -> float:
    if problem.focal_sigma == 0:
        return 0.0
    return 0.5 * (state.log_focal / problem.focal_sigma) ** 2


def _in_anchor(problem: BundleProblem, state: BundleState) -> Float[ndarray, "m 3"]:
    p = problem.ray * np.exp(state.log_depth)[:, None]
    p[:, :2] *= np.exp(-state.log_focal)
    return p


def _in_camera(problem: BundleProblem, state: BundleState) -> Float[ndarray, "3 n"]:
    offset = points(problem, state).T[:, problem.track]
    offset -= state.T_submap_cam[:, :3, 3].T[:, problem.frame]
    y = np.einsum("crn,rn->cn", _columns(state, problem.frame), offset)
    y[2] = np.maximum(y[2], MIN_Z * problem.median_depth)
    return y


def _columns(state: BundleState, frame: Int[ndarray, " n"]) -> Float[ndarray, "3 3 n"]:
    """Rotations of the frames of all observations: column, row, observation."""
    columns = np.ascontiguousarray(state.T_submap_cam[:, :3, :3].transpose(2, 1, 0))
    return np.take(columns, frame, axis=2)


def linearise(problem: BundleProblem, state: BundleState) -> Float[ndarray, "k 2 n"]:
    """Of both pixel coordinates: derivatives by rotation (body) and translation (submap) of the
    anchor, by those of the observing frame, by the log depth; the residual; where the camera is
    not calibrated, the derivative by the log focal length."""
    R_anchor = _columns(state, problem.anchor[problem.track])
    R_frame = _columns(state, problem.frame)
    p = _in_anchor(problem, state).T[:, problem.track]
    y = _in_camera(problem, state)
    u, v = y[:2] / y[2]
    focal = np.exp(state.log_focal) * problem.focal[problem.frame].T
    fx, fy = focal / y[2]
    J = np.empty((14 + (problem.focal_sigma > 0), 2, len(problem.frame)))
    by_point = J[3:6]  # rows of the projection's derivative, turned into the submap
    by_point[:, 0] = fx * (R_frame[0] - u * R_frame[2])
    by_point[:, 1] = fy * (R_frame[1] - v * R_frame[2])
    in_anchor = np.einsum("crn,rin->cin", R_anchor, by_point)
    J[0:3] = _cross(p[:, None], in_anchor)
    J[6:9, 0] = fx * u * y[1], -fx * (u * y[0] + y[2]), fx * y[1]
    J[6:9, 1] = fy * (y[2] + v * y[1]), -fy * v * y[0], -fy * y[0]
    J[9:12] = -by_point
    J[12] = (in_anchor * p[:, None]).sum(axis=0)
    J[13] = np.stack([u, v]) * focal - problem.xy.T * problem.focal[problem.frame].T
    if problem.focal_sigma > 0:
        J[14] = np.stack([u, v]) * focal - (in_anchor[:2] * p[:2, None]).sum(axis=0)
    return J


def _cross(a: Float[ndarray, "3 ..."], b: Float[ndarray, "3 ..."]) -> Float[ndarray, "3 ..."]:
    return np.stack([a[i] * b[j] - a[j] * b[i] for i, j in ((1, 2), (2, 0), (0, 1))])


class Normal(NamedTuple):
    """Normal equations without the depths, of what is free: poses but the reference's, and the
    focal length where it is not known. `W` and what follows bring the depths back."""

    H: Float[ndarray, "k k"]
    g: Float[ndarray, " k"]
    free: Int[ndarray, " k"]  # their places among all poses and the focal length
    W: Float[ndarray, "m p"]
    h: Float[ndarray, " m"]
    g_depth: Float[ndarray, " m"]


def normal_equations(
    problem: BundleProblem,
    state: BundleState,
    config: RefinementConfig,
    damping: float,
    pace: float,
) -> Normal:
    J = linearise(problem, state)
    s, m = len(state.T_submap_cam), len(state.log_depth)
    J *= np.sqrt(huber_weight(np.hypot(*J[13]), config.huber_px))
    away = (state.log_depth - problem.log_depth_prior) / problem.depth_sigma
    pull = huber_weight(np.abs(away), PRIOR_DEPTH_HUBER) / problem.depth_sigma
    h = np.bincount(problem.track, (J[12] ** 2).sum(axis=0), m)
    h = (h + pull / problem.depth_sigma) * (1 + damping) + 1e-9
    g_depth = np.bincount(problem.track, (J[12] * J[13]).sum(axis=0), m) + pull * away
    W = _depth_rows(problem, J, s)
    H, g = _pose_blocks(problem, J, s)
    add_motion_prior(problem, state, H, g)
    add_leap_prior(problem, state, config, pace, H, g)
    if problem.focal_sigma > 0:
        H, g, W = _with_focal(problem, state, J, H, g, W)
    everything = np.arange(len(g))
    H[everything, everything] *= 1 + damping
    H[everything, everything] += 1e-9
    scaled = W / np.sqrt(h)[:, None]
    H -= scaled.T @ scaled
    g -= W.T @ (g_depth / h)
    free = np.delete(everything, np.arange(6) + 6 * problem.reference)
    return Normal(H[np.ix_(free, free)], g[free], free, W, h, g_depth)


def _solve(
    problem: BundleProblem,
    state: BundleState,
    config: RefinementConfig,
    damping: float,
    pace: float,
) -> tuple[Float[ndarray, "s 6"], Float[ndarray, " m"], float]:
    normal = normal_equations(problem, state, config, damping, pace)
    step = np.zeros(normal.W.shape[1])
    step[normal.free] = -cho_solve(cho_factor(normal.H), normal.g)
    step_depth = -(normal.g_depth + normal.W @ step) / normal.h
    poses = 6 * len(state.T_submap_cam)
    zoom = float(np.clip(step[poses:].sum(), -MAX_ZOOM, MAX_ZOOM))  # none where it is known
    return step[:poses].reshape(-1, 6), np.clip(step_depth, -MAX_STEP, MAX_STEP), zoom


def _with_focal(
    problem: BundleProblem,
    state: BundleState,
    J: Float[ndarray, "15 2 n"],
    H: Float[ndarray, "p p"],
    g: Float[ndarray, " p"],
    W: Float[ndarray, "m p"],
) -> tuple[Float[ndarray, "q q"], Float[ndarray, " q"], Float[ndarray, "m q"]]:
    """The same with one unknown more."""
    by_focal, m = J[14], len(W)
    mixed = np.zeros((len(state.T_submap_cam), 6))
    products = (J[:12] * by_focal).sum(axis=1).T
    np.add.at(mixed, problem.anchor[problem.track], products[:, :6])
    np.add.at(mixed, problem.frame, products[:, 6:])
    trust = 1 / problem.focal_sigma**2
    H = np.pad(H, (0, 1))
    H[-1, :-1] = H[:-1, -1] = mixed.reshape(-1)
    H[-1, -1] = (by_focal**2).sum() + trust
    g = np.append(g, (by_focal * J[13]).sum() + trust * state.log_focal)
    with_depth = np.bincount(problem.track, (by_focal * J[12]).sum(axis=0), m)
    return H, g, np.concatenate([W, with_depth[:, None]], axis=1)


def _pose_blocks(
    problem: BundleProblem, J: Float[ndarray, "k 2 n"], frames: int
) -> tuple[Float[ndarray, "p p"], Float[ndarray, " p"]]:
    """Normal matrix and gradient of the poses: one product for every pair of anchor and frame."""
    order, starts, pairs = problem.pairs
    rows = np.delete(J[:14], 12, axis=0)[:, :, order].transpose(2, 1, 0).reshape(-1, 13)
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
    problem: BundleProblem, J: Float[ndarray, "k 2 n"], frames: int
) -> Float[ndarray, "m p"]:
    """Mixed derivatives of every track's depth and all poses."""
    mixed = (J[:12] * J[12]).sum(axis=1).T
    W = np.zeros((len(problem.anchor), frames, 6))
    W[problem.track, problem.frame] = mixed[:, 6:]  # a track is seen once in a frame
    tracks, first = np.unique(problem.track, return_index=True)
    W[tracks, problem.anchor[tracks]] += np.add.reduceat(mixed[:, :6], first)
    return W.reshape(len(W), -1)


def _moved(
    state: BundleState,
    step_pose: Float[ndarray, "s 6"],
    step_depth: Float[ndarray, " m"],
    zoom: float = 0.0,
) -> BundleState:
    T = state.T_submap_cam.copy()
    T[:, :3, :3] = T[:, :3, :3] @ Rotation.from_rotvec(step_pose[:, :3]).as_matrix()
    T[:, :3, 3] += step_pose[:, 3:]
    return BundleState(T, state.log_depth + step_depth, state.log_focal + zoom)
