"""A camera's pose against known points, robustly, with its covariance."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy.spatial.transform import Rotation

ITERATIONS = 12
OUTLIER_PX = 4.0
CAUCHY_PX = 1.5
MIN_Z = 1e-3


@dataclass(frozen=True, eq=False)
class CameraPose:
    T_odom_cam: Float[ndarray, "4 4"]
    inliers: Bool[ndarray, " n"]
    covariance: Float[ndarray, "6 6"]  # translation in odom, rotation in cam [rad]


def solve_pose(
    xyz_odom: Float[ndarray, "n 3"],
    xy: Float[ndarray, "n 2"],
    focal: float,
    guess: Float[ndarray, "4 4"],
) -> CameraPose | None:
    """From a guess by robust least squares; by PnP in RANSAC first where the guess is too far.

    `xy` are normalised image coordinates. None where fewer than 6 points agree.
    """
    if len(xyz_odom) < 6:
        return None
    pose = _refined(xyz_odom, xy, focal, guess)
    if pose is None or pose.inliers.mean() < 0.6:
        start = _ransac(xyz_odom, xy, focal, guess)
        other = None if start is None else _refined(xyz_odom, xy, focal, start)
        if other is not None and (pose is None or other.inliers.sum() > pose.inliers.sum()):
            pose = other
    return pose


def solve_rotation(
    before: Float[ndarray, "n 3"], now: Float[ndarray, "n 3"], focal: float
) -> tuple[Float[ndarray, "3 3"], Bool[ndarray, " n"]]:
    """R_before_now that turns rays into rays (Kabsch with Cauchy weights), and which agree.

    Parallax is taken for noise: agreement is wider than for a pose.
    """
    a = before / np.linalg.norm(before, axis=1, keepdims=True)
    b = now / np.linalg.norm(now, axis=1, keepdims=True)
    weights, width = np.ones(len(a)), 16 * OUTLIER_PX
    for _ in range(ITERATIONS):
        U, _, Vt = np.linalg.svd((a * weights[:, None]).T @ b)
        R = (U * [1, 1, np.linalg.det(U @ Vt)]) @ Vt
        error = np.linalg.norm(a - b @ R.T, axis=1) * focal
        weights = 1 / (1 + (error / width) ** 2)
        width = max(width / 2, OUTLIER_PX)
    return R, np.asarray(error < 4 * OUTLIER_PX)


def _ransac(
    xyz: Float[ndarray, "n 3"],
    xy: Float[ndarray, "n 2"],
    focal: float,
    guess: Float[ndarray, "4 4"],
) -> Float[ndarray, "4 4"] | None:
    turn = cv2.Rodrigues(guess[:3, :3].T)[0]
    shift = (-guess[:3, :3].T @ guess[:3, 3]).reshape(3, 1)
    limit = OUTLIER_PX / focal
    found, turn, shift, inliers = cv2.solvePnPRansac(
        xyz, xy, np.eye(3), None, turn, shift, True, 60, limit, 0.99
    )
    if not found or inliers is None:
        return None
    R = cv2.Rodrigues(turn)[0]
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = R.T, -R.T @ np.asarray(shift)[:, 0]
    return T


def _refined(
    xyz: Float[ndarray, "n 3"],
    xy: Float[ndarray, "n 2"],
    focal: float,
    guess: Float[ndarray, "4 4"],
) -> CameraPose | None:
    """Gauss-Newton with Cauchy weights whose width starts wide and narrows."""
    T = guess.copy()
    width = 16 * CAUCHY_PX
    for _ in range(ITERATIONS):
        r, J, front = _linearise(xyz, xy, focal, T)
        size = np.linalg.norm(r, axis=1)
        w = front / (1 + (size / width) ** 2)
        if front.sum() < 6:
            return None
        H = np.einsum("nki,n,nkj->ij", J, w, J)
        step = np.linalg.solve(
            H + 1e-9 * np.trace(H) * np.eye(6), -np.einsum("nki,n,nk->i", J, w, r)
        )
        T[:3, 3] += step[:3]
        T[:3, :3] = T[:3, :3] @ Rotation.from_rotvec(step[3:]).as_matrix()
        if width == CAUCHY_PX and np.abs(step).max() < 1e-6:
            break
        width = max(width / 2, CAUCHY_PX)
    r, J, front = _linearise(xyz, xy, focal, T)
    inliers = front & (np.linalg.norm(r, axis=1) < OUTLIER_PX)
    if inliers.sum() < 6 or not np.isfinite(T).all():
        return None
    r, J = r[inliers], J[inliers]
    H = np.einsum("nki,nkj->ij", J, J)
    variance = float((r * r).sum()) / max(2 * len(r) - 6, 1)
    covariance = np.linalg.inv(H + 1e-12 * np.trace(H) * np.eye(6)) * variance
    return CameraPose(T, inliers, covariance)


def _linearise(
    xyz: Float[ndarray, "n 3"],
    xy: Float[ndarray, "n 2"],
    focal: float,
    T: Float[ndarray, "4 4"],
) -> tuple[Float[ndarray, "n 2"], Float[ndarray, "n 2 6"], Bool[ndarray, " n"]]:
    """Reprojection errors [px], derivative by (translation in odom, rotation in cam), in front."""
    R = T[:3, :3]
    y = (xyz - T[:3, 3]) @ R
    front = y[:, 2] > MIN_Z
    x, y_, z = y[:, 0], y[:, 1], np.where(front, y[:, 2], 1.0)
    r = (np.stack([x / z, y_ / z], 1) - xy) * focal
    a, b, zero = x / z, y_ / z, np.zeros_like(z)
    d_y = np.stack([1 / z, zero, -a / z, zero, 1 / z, -b / z], 1).reshape(-1, 2, 3) * focal
    turn = np.stack([a * b, -1 - a * a, b, 1 + b * b, -a * b, -a], 1).reshape(-1, 2, 3) * focal
    r[~front] = 0.0
    return r, np.concatenate([-d_y @ R.T, turn], axis=2), front
