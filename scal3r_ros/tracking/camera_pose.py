"""A camera's pose against known points, robustly, with its covariance."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

ITERATIONS = 12
SETTLED_PX = 0.01  # of a last step
OUTLIER_PX = 4.0
CAUCHY_PX = 1.5
MIN_Z = 1e-3
PIXEL_SIGMA = 0.5
TOGETHER = 3.0  # corners' errors last for images and go with their neighbours': so many are one


@dataclass(frozen=True, eq=False)
class CameraPose:
    T_odom_cam: Float[ndarray, "4 4"]
    inliers: Bool[ndarray, " n"]
    covariance: Float[ndarray, "6 6"]  # translation in odom, rotation in cam [rad]

    @property
    def deviation_rad(self) -> float:
        """Of the rotation about the axis that is known worst."""
        return float(np.sqrt(np.linalg.eigvalsh(self.covariance[3:, 3:])[-1]))


def solve_pose(
    xyz_odom: Float[ndarray, "n 3"],
    xy: Float[ndarray, "n 2"],
    focal: float,
    guess: Float[ndarray, "4 4"],
    spread: Float[ndarray, "n 3"],
) -> CameraPose | None:
    """From a guess by robust least squares; by PnP in RANSAC first where the guess is too far.

    `xy` are normalised image coordinates. None where fewer than 6 points agree.
    """
    if len(xyz_odom) < 6:
        return None
    pose = _refined(xyz_odom, xy, focal, guess, spread)
    if pose is None or pose.inliers.mean() < 0.6:
        start = _ransac(xyz_odom, xy, focal, guess)
        other = None if start is None else _refined(xyz_odom, xy, focal, start, spread)
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
    spread: Float[ndarray, "n 3"],
) -> CameraPose | None:
    """Gauss-Newton with Cauchy weights whose width starts as wide as the errors and narrows."""
    T = guess.copy()
    r, J, front = _linearise(xyz, xy, focal, T, spread)
    middle = float(np.median(np.abs(r[front]))) if front.any() else 0.0
    width = float(np.clip(3 * middle, CAUCHY_PX, 16 * CAUCHY_PX))
    for _ in range(ITERATIONS):
        if front.sum() < 6:
            return None
        w = front / (1 + (r * r).sum(axis=1) / width**2)
        A = J.reshape(-1, 6)
        weighted = A * np.repeat(w, 2)[:, None]
        H = A.T @ weighted
        step = np.linalg.solve(H + 1e-9 * np.trace(H) * np.eye(6), -weighted.T @ r.reshape(-1))
        T[:3, 3] += step[:3]
        T[:3, :3] = T[:3, :3] @ cv2.Rodrigues(step[3:])[0]
        moved = float(np.sqrt(step @ H @ step / max(w.sum(), 1e-9)))  # pixels
        r, J, front = _linearise(xyz, xy, focal, T, spread)
        if width == CAUCHY_PX and moved < SETTLED_PX:
            break
        width = max(width / 2, CAUCHY_PX)
    inliers = front & ((r * r).sum(axis=1) < OUTLIER_PX**2)
    if inliers.sum() < 6 or not np.isfinite(T).all():
        return None
    r, A = r[inliers], J[inliers].reshape(-1, 6)
    H = A.T @ A
    variance = float((r * r).sum()) / max(2 * len(r) - 6, 1)
    covariance = np.linalg.inv(H + 1e-12 * np.trace(H) * np.eye(6)) * variance
    return CameraPose(T, inliers, covariance)


def _linearise(
    xyz: Float[ndarray, "n 3"],
    xy: Float[ndarray, "n 2"],
    focal: float,
    T: Float[ndarray, "4 4"],
    spread: Float[ndarray, "n 3"],
) -> tuple[Float[ndarray, "n 2"], Float[ndarray, "n 2 6"], Bool[ndarray, " n"]]:
    """Reprojection errors [px], derivative by (translation in odom, rotation in cam), in front."""
    R = T[:3, :3]
    y = (xyz - T[:3, 3]) @ R
    front = y[:, 2] > MIN_Z
    inverse = 1 / np.where(front, y[:, 2], 1.0)
    a, b = y[:, 0] * inverse, y[:, 1] * inverse
    r = (np.stack([a, b], 1) - xy) * focal
    r[~front] = 0.0
    d_y = np.zeros((len(y), 2, 3))
    d_y[:, 0, 0] = d_y[:, 1, 1] = focal * inverse
    d_y[:, 0, 2], d_y[:, 1, 2] = -a * focal * inverse, -b * focal * inverse
    J = np.empty((len(y), 2, 6))
    J[:, :, :3] = (d_y.reshape(-1, 3) @ -R.T).reshape(-1, 2, 3)
    J[:, 0, 3], J[:, 0, 4], J[:, 0, 5] = focal * a * b, -focal * (1 + a * a), focal * b
    J[:, 1, 3], J[:, 1, 4], J[:, 1, 5] = focal * (1 + b * b), -focal * a * b, -focal * a
    along = np.einsum("nij,nj->ni", d_y, spread @ R)  # one deviation of the depth, pixels
    length2 = (along * along).sum(1)
    share = (1 - 1 / np.sqrt(1 + length2 / PIXEL_SIGMA**2)) / np.maximum(length2, 1e-12)
    r -= (share * (r * along).sum(1))[:, None] * along
    J -= (share[:, None] * np.einsum("ni,nij->nj", along, J))[:, None] * along[:, :, None]
    return r, J, front


def covariance_in_odom(
    found: CameraPose | None, T_odom_cam: Float[ndarray, "4 4"], floors: tuple[float, float]
) -> Float[ndarray, "6 6"]:
    """(translation, rotation) in the axes of odom, of corners of which `TOGETHER` say what one
    does; never smaller than the floors' squares."""
    floor = np.diag(np.repeat(floors, 3) ** 2)
    if found is None:
        return floor
    turn = np.eye(6)
    turn[3:, 3:] = T_odom_cam[:3, :3]  # rotation from the axes of cam to those of odom
    return TOGETHER * turn @ found.covariance @ turn.T + floor
