"""A camera's pose against points whose depth is more or less sure, robustly, with its covariance.

What an unsure depth does to a pixel it does along a line, the epipolar line of the image in which
the point was found. There residuals count less, across it they count in full: points of unknown
depth still tell turn and direction.
"""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from scal3r_ros.geometry.align import nearest_rotation

ITERATIONS = 12
SETTLED_PX = 0.01  # of a last step
OUTLIER_PX = 4.0
CAUCHY_PX = 1.5
MIN_Z = 1e-3
PIXEL_SIGMA = 0.5  # of a corner that was followed
TOGETHER = 4.0  # corners' errors last for images and go with their neighbours': so many are one
DISSENT = 2  # power of the share of corners that agree, by which the deviation grows
SURE = 0.3  # deviation over distance of points that RANSAC may choose


@dataclass(frozen=True, eq=False)
class CameraPose:
    T_odom_cam: Float[ndarray, "4 4"]
    inliers: Bool[ndarray, " n"]
    covariance: Float[ndarray, "6 6"]  # translation in odom, rotation in cam [rad]


class Likely(NamedTuple):
    """A pose and its deviations (translation in odom, rotation in cam), before anything is seen."""

    T_odom_cam: Float[ndarray, "4 4"]
    sigma: Float[ndarray, " 6"]

    def added(
        self, H: Float[ndarray, "6 6"], g: Float[ndarray, " 6"], T: Float[ndarray, "4 4"]
    ) -> tuple[Float[ndarray, "6 6"], Float[ndarray, " 6"]]:
        """To the normal equations of pixels; Cauchy's kernel, for cameras do leap."""
        turn = cv2.Rodrigues(self.T_odom_cam[:3, :3].T @ T[:3, :3])[0][:, 0]
        away = np.concatenate([T[:3, 3] - self.T_odom_cam[:3, 3], turn]) / self.sigma
        trust = TOGETHER * PIXEL_SIGMA**2 / self.sigma / (1 + away @ away / 6)
        return H + np.diag(trust / self.sigma), g + trust * away


def solve_pose(
    xyz_odom: Float[ndarray, "n 3"],
    spread: Float[ndarray, "n 3"],
    xy: Float[ndarray, "n 2"],
    focal: float,
    guess: Float[ndarray, "4 4"],
    guess_sigma: Float[ndarray, " 6"] | None = None,
) -> CameraPose | None:
    """From a guess by robust least squares; by PnP in RANSAC first where the guess is too far.

    `spread` is what one deviation of its depth moves a point by; `xy` are normalised image
    coordinates; `guess_sigma` (translation, rotation) says how likely a pose is before anything is
    seen. None where fewer than 6 points agree.
    """
    if len(xyz_odom) < 6:
        return None
    likely = None if guess_sigma is None else Likely(guess, guess_sigma)
    pose = _refined(xyz_odom, spread, xy, focal, guess, likely)
    if pose is None or pose.inliers.mean() < 0.6:
        distance = np.linalg.norm(xyz_odom - guess[:3, 3], axis=1)
        sure = np.linalg.norm(spread, axis=1) < SURE * distance
        start = _ransac(xyz_odom[sure], xy[sure], focal, guess) if sure.sum() >= 6 else None
        other = None if start is None else _refined(xyz_odom, spread, xy, focal, start, likely)
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
        R = nearest_rotation((a * weights[:, None]).T @ b)
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
    spread: Float[ndarray, "n 3"],
    xy: Float[ndarray, "n 2"],
    focal: float,
    guess: Float[ndarray, "4 4"],
    likely: "Likely | None",
) -> CameraPose | None:
    """Gauss-Newton with Cauchy weights whose width starts as wide as the errors and narrows."""
    T = guess.copy()
    r, J, front = _linearise(xyz, spread, xy, focal, T)
    middle = float(np.median(np.abs(r[front]))) if front.any() else 0.0
    width = float(np.clip(3 * middle, CAUCHY_PX, 16 * CAUCHY_PX))
    for _ in range(ITERATIONS):
        if front.sum() < 6:
            return None
        w = front / (1 + (r * r).sum(axis=1) / width**2)
        A = J.reshape(-1, 6)
        weighted = A * np.repeat(w, 2)[:, None]
        H = A.T @ weighted
        g = weighted.T @ r.reshape(-1)
        if likely is not None:
            H, g = likely.added(H, g, T)
        step = np.linalg.solve(H + 1e-9 * np.trace(H) * np.eye(6), -g)
        T[:3, 3] += step[:3]
        T[:3, :3] = T[:3, :3] @ cv2.Rodrigues(step[3:])[0]
        moved = float(np.sqrt(step @ H @ step / max(w.sum(), 1e-9)))  # pixels
        r, J, front = _linearise(xyz, spread, xy, focal, T)
        if width == CAUCHY_PX and moved < SETTLED_PX:
            break
        width = max(width / 2, CAUCHY_PX)
    inliers = front & ((r * r).sum(axis=1) < OUTLIER_PX**2)
    if inliers.sum() < 6 or not np.isfinite(T).all():
        return None
    r, A = r[inliers], J[inliers].reshape(-1, 6)
    weighted = A * np.repeat(1 / (1 + (r * r).sum(axis=1) / CAUCHY_PX**2), 2)[:, None]
    H = A.T @ weighted
    inverse = np.linalg.inv(H + 1e-12 * np.trace(H) * np.eye(6))
    pulls = np.einsum("nij,ni->nj", weighted.reshape(-1, 2, 6), r)
    covariance = inverse @ (pulls.T @ pulls) @ inverse  # of an M-estimator (Huber 1967)
    independent = len(r) / TOGETHER
    covariance *= TOGETHER * independent / max(independent - 3, 1)
    covariance /= float(inliers.mean()) ** (2 * DISSENT)  # many disagree: the rest may be wrong
    return CameraPose(T, inliers, covariance)


def _linearise(
    xyz: Float[ndarray, "n 3"],
    spread: Float[ndarray, "n 3"],
    xy: Float[ndarray, "n 2"],
    focal: float,
    T: Float[ndarray, "4 4"],
) -> tuple[Float[ndarray, "n 2"], Float[ndarray, "n 2 6"], Bool[ndarray, " n"]]:
    """Reprojection errors [px], derivative by (translation in odom, rotation in cam), in front.
    Both are shortened along the line on which an unsure depth moves the point, so that there, too,
    one deviation is `PIXEL_SIGMA`."""
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
    along = np.einsum("nij,nj->ni", d_y, spread @ R)
    square = (along * along).sum(1)
    share = (1 - 1 / np.sqrt(1 + square / PIXEL_SIGMA**2)) / np.maximum(square, 1e-12)
    r -= (share * (r * along).sum(1))[:, None] * along
    J -= (share[:, None] * np.einsum("ni,nij->nj", along, J))[:, None] * along[:, :, None]
    return r, J, front


def covariance_in_odom(
    found: CameraPose | None, T_odom_cam: Float[ndarray, "4 4"], floors: Float[ndarray, " 2"]
) -> Float[ndarray, "6 6"]:
    """(translation, rotation) in the axes of odom; never smaller than the floors' squares."""
    floor = np.diag(np.repeat(floors, 3) ** 2)
    if found is None:
        return floor
    turn = np.eye(6)
    turn[3:, 3:] = T_odom_cam[:3, :3]  # rotation from the axes of cam to those of odom
    return turn @ found.covariance @ turn.T + floor


def piled_up(before: Float[ndarray, "6 6"], now: Float[ndarray, "6 6"]) -> Float[ndarray, "6 6"]:
    """Covariance of a sum whose parts err the same way: deviations add, not variances."""
    both = before + now
    sigma = np.sqrt(np.diag(before)) + np.sqrt(np.diag(now))
    factor = sigma / np.sqrt(np.diag(both))
    return factor[:, None] * both * factor
