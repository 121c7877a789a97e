"""What a map costs nothing to beat: two trajectories without any network."""

from collections.abc import Iterable

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from scal3r_ros.data.tum import Trajectory
from scal3r_ros.geometry.sim3 import invert_pose
from scal3r_ros.mapping.types import Frame

CORNERS = 800
MIN_FLOW_PX = 3.0  # between images that the five points compare


def constant_velocity(frames: Iterable[Frame]) -> Trajectory:
    """Straight ahead at unit speed, whatever the camera sees."""
    stamps = [frame.stamp_ns for frame in frames]
    trajectory: Trajectory = {}
    for stamp in stamps:
        T = np.eye(4)
        T[2, 3] = (stamp - stamps[0]) / 1e9
        trajectory[stamp] = T
    return trajectory


def five_point_odometry(frames: Iterable[Frame]) -> Trajectory:
    """OpenCV's essential matrix between images with enough flow; every step has unit length."""
    trajectory: Trajectory = {}
    T_world_cam = np.eye(4)
    last: UInt8[ndarray, "h w"] | None = None
    for frame in frames:
        if frame.K is None:
            raise ValueError("five-point odometry needs the camera's calibration")
        grey = np.asarray(cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY))
        if last is None:
            last = grey
        else:
            motion = _motion(last, grey, frame.K)
            if motion is not None:
                T_world_cam = T_world_cam @ invert_pose(motion)
                last = grey
        trajectory[frame.stamp_ns] = T_world_cam.copy()
    return trajectory


def _motion(
    before: UInt8[ndarray, "h w"], after: UInt8[ndarray, "h w"], K: Float[ndarray, "3 3"]
) -> Float[ndarray, "4 4"] | None:
    """T_after_before with unit baseline, None where little moved or nothing can be matched."""
    corners = cv2.goodFeaturesToTrack(before, CORNERS, 0.01, 7)
    if corners is None or len(corners) < 20:
        return None
    ends, found, _ = cv2.calcOpticalFlowPyrLK(before, after, corners, None)
    good = found[:, 0] > 0
    a, b = corners[good, 0], ends[good, 0]
    if good.sum() < 20 or np.median(np.linalg.norm(b - a, axis=1)) < MIN_FLOW_PX:
        return None
    K_cv = K.copy()
    K_cv[:2, 2] -= 0.5
    E, inliers = cv2.findEssentialMat(a, b, K_cv, cv2.RANSAC, 0.999, 1.0)
    if E is None or E.shape != (3, 3):
        return None
    _, R, t, _ = cv2.recoverPose(E, a, b, K_cv, mask=inliers)
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = R, t[:, 0]
    return T
