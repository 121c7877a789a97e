"""Where a camera stands to another one, from matches of the two images: needs parallax, no depth.

The essential matrix gives all but the distance (five points in RANSAC; Nister 2004), and for that
even rough depths will do, in the median.
"""

import cv2
import numpy as np
from jaxtyping import Float
from numpy import ndarray

from scal3r_ros.geometry.align import nearest_rotation
from scal3r_ros.geometry.camera import rays

MIN_MATCHES = 24
MIN_IN_FRONT = 12  # of both cameras, on epipolar lines
MIN_PARALLAX_PX = 4.0  # median, without the common rotation
EPIPOLAR_PX = 2.0


def pose_between(
    a: Float[ndarray, "n 2"], b: Float[ndarray, "n 2"], z: Float[ndarray, " n"], focal: float
) -> Float[ndarray, "4 4"] | None:
    """T_a_b from normalised image coordinates in both cameras and rough depths in the first, whose
    unit it has; `focal` [pixels] turns limits into angles. None where the matches do not say."""
    if len(a) < MIN_MATCHES or _parallax_px(a, b, focal) < MIN_PARALLAX_PX:
        return None
    E, inliers = cv2.findEssentialMat(a, b, np.eye(3), cv2.RANSAC, 0.999, EPIPOLAR_PX / focal)
    if E is None or E.shape != (3, 3):
        return None
    _, R, t, front = cv2.recoverPose(E, a, b, np.eye(3), mask=inliers)
    use = (front[:, 0] > 0) & (z > 0)
    unit = _depth(a, b, R, t[:, 0])
    use &= unit > 0
    if use.sum() < MIN_IN_FRONT:
        return None
    T_a_b = np.eye(4)
    T_a_b[:3, :3], T_a_b[:3, 3] = R.T, -R.T @ t[:, 0]
    T_a_b[:3, 3] *= np.exp(np.median(np.log(z[use] / unit[use])))
    return T_a_b


def _depth(
    a: Float[ndarray, "n 2"],
    b: Float[ndarray, "n 2"],
    R_b_a: Float[ndarray, "3 3"],
    t_b_a: Float[ndarray, " 3"],
) -> Float[ndarray, " n"]:
    """In the first camera; linear least squares in inverse depth on the second's image plane."""
    turned = rays(a) @ R_b_a.T
    A = t_b_a[:2] - b * t_b_a[2]
    B = b * turned[:, 2:] - turned[:, :2]
    inverse = (A * B).sum(1) / np.maximum((A * A).sum(1), 1e-12)
    return 1 / np.where(np.abs(inverse) < 1e-9, 1e-9, inverse)


def _parallax_px(a: Float[ndarray, "n 2"], b: Float[ndarray, "n 2"], focal: float) -> float:
    """Median motion that remains after the best common rotation."""
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rays(a), rays(b)))
    return focal * float(np.median(np.linalg.norm(b - a @ nearest_rotation(b.T @ a).T, axis=1)))
