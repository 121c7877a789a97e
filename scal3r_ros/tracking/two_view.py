"""The motion between two images of points whose depth is not known: turn and direction."""

import cv2
import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from scal3r_ros.geometry.camera import rays, transform_points
from scal3r_ros.geometry.sim3 import invert_pose
from scal3r_ros.tracking.camera_pose import solve_rotation

EPIPOLAR_PX = 1.0
TURN_PX = 1.0  # median error up to which a mere turn explains all
MIN_AGREE = 0.5  # share of the points
CONFIDENCE, ROUNDS = 0.999, 200  # of RANSAC
MIN_KNOWN = 5  # points of known depth that tell the length of a step

Motion = tuple[Float[ndarray, "4 4"], Bool[ndarray, " n"]]


def relative_motion(
    before: Float[ndarray, "n 2"], now: Float[ndarray, "n 2"], focal: float
) -> Motion | None:
    """(T_before_now with a step of length 1, or 0 for a mere turn; which points agree).

    Five points in RANSAC (Nister 2004); normalised image coordinates. None where too few agree.
    """
    R, agree = solve_rotation(rays(before), rays(now), focal)
    seen = rays(now) @ R.T
    turned = seen[:, :2] / np.where(seen[:, 2:] > 1e-6, seen[:, 2:], np.nan)
    error = np.nan_to_num(np.linalg.norm(turned - before, axis=1), nan=np.inf) * focal
    T = np.eye(4)
    T[:3, :3] = R
    if np.median(error) < TURN_PX:
        return T, agree
    limit = EPIPOLAR_PX / focal
    E, inside = cv2.findEssentialMat(
        before, now, np.eye(3), cv2.RANSAC, CONFIDENCE, limit, ROUNDS, np.array([])
    )
    if E is None or E.shape != (3, 3):
        return None
    _, R_now_before, t, inside = cv2.recoverPose(E, before, now, np.eye(3), mask=inside)
    agree = np.asarray(inside)[:, 0] > 0
    if agree.mean() < MIN_AGREE:
        return None
    T[:3, :3], T[:3, 3] = R_now_before.T, -(R_now_before.T @ t)[:, 0]
    return T, agree


def directed_step(
    T_odom_before: Float[ndarray, "4 4"],
    depth: float,
    xyz_odom: Float[ndarray, "n 3"],
    before: Float[ndarray, "n 2"],
    now: Float[ndarray, "n 2"],
    focal: float,
) -> Motion | None:
    """(T_odom_now, which points agree) from points of which some are known (the others NaN): the
    length of the step is theirs, or that of a scene `depth` away."""
    motion = relative_motion(before, now, focal)
    if motion is None:
        return None
    T_step, agree = motion
    sure = agree & np.isfinite(xyz_odom[:, 0])
    xyz = transform_points(invert_pose(T_odom_before), xyz_odom[sure])
    length = step_length(T_step, xyz, now[sure])
    if length is None:
        length = step_length(T_step, depth * rays(before[agree]), now[agree]) or 0.0
    T_step[:3, 3] *= length
    return T_odom_before @ T_step, agree


def step_length(
    T_before_now: Float[ndarray, "4 4"],
    xyz_before: Float[ndarray, "n 3"],
    now: Float[ndarray, "n 2"],
) -> float | None:
    """How far a step of a known direction went, by points of known depth in the first camera and
    their image coordinates in the second; None where they do not tell."""
    if len(now) < MIN_KNOWN or not T_before_now[:3, 3].any():
        return None
    R, t = T_before_now[:3, :3].T, -T_before_now[:3, :3].T @ T_before_now[:3, 3]
    p = xyz_before @ R.T  # now (p + length t) is seen at (u, v)
    gain = (now * t[2] - t[:2]).reshape(-1)
    length = (p[:, :2] - now * p[:, 2:]).reshape(-1) / np.where(gain == 0, np.inf, gain)
    order = np.argsort(length)
    weight = np.cumsum(np.abs(gain / np.repeat(p[:, 2], 2))[order])
    found = float(length[order][np.searchsorted(weight, weight[-1] / 2)])
    return found if found > 0 else None
