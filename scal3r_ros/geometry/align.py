"""Fitting transforms to matched points."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from scal3r_ros.geometry.sim3 import Sim3

MAD_TO_SIGMA = 1.4826
HUBER = 1.345  # 95 % efficient for normal errors


class AlignmentError(ValueError):
    """Points that do not determine a transform."""


def nearest_rotation(M: Float[ndarray, "3 3"]) -> Float[ndarray, "3 3"]:
    """The R with the largest trace of M R^T: R_a_b where M is the sum of a b^T (Kabsch 1976)."""
    U, _, Vt = np.linalg.svd(M)
    return (U * [1, 1, np.linalg.det(U @ Vt)]) @ Vt


def umeyama(
    xyz_a: Float[ndarray, "n 3"],
    xyz_b: Float[ndarray, "n 3"],
    weights: Float[ndarray, " n"],
    *,
    allow_line: bool = False,
) -> Sim3:
    """Weighted least-squares T_a_b (Umeyama 1991, eqs. 40-42).

    Points on a line leave a turn about it open: refused, unless any of the best will do.
    """
    total = weights.sum()
    if len(xyz_a) < 3 or not total > 0:
        raise AlignmentError(f"at least 3 weighted points are needed, got {len(xyz_a)}")
    w = weights / total
    mean_a, mean_b = w @ xyz_a, w @ xyz_b
    a, b = xyz_a - mean_a, xyz_b - mean_b
    variance_b = float(w @ (b * b).sum(1))
    U, singular, Vt = np.linalg.svd((a * w[:, None]).T @ b)
    on_line = singular[1] <= 1e-9 * max(singular[0], 1e-300)
    if (on_line and not allow_line) or variance_b <= 0:
        raise AlignmentError("points lie on a line or at one place")
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(U @ Vt))])
    R = (U * sign) @ Vt
    s = float((singular * sign).sum() / variance_b)
    if s <= 0:
        raise AlignmentError("points do not determine a positive scale")
    return Sim3(R, mean_a - s * R @ mean_b, s)


def rigid_with_scale(
    xyz_a: Float[ndarray, "n 3"],
    xyz_b: Float[ndarray, "n 3"],
    weights: Float[ndarray, " n"],
    scale: float,
) -> Sim3:
    """Best rotation and translation when the scale is known."""
    fit = umeyama(xyz_a, xyz_b, weights)
    w = weights / weights.sum()
    return Sim3(fit.R, w @ xyz_a - scale * fit.R @ (w @ xyz_b), scale)


@dataclass(frozen=True, eq=False)
class Alignment:
    """T_a_b with the evidence for it."""

    T_a_b: Sim3
    sigma: float  # robust standard deviation of the point distances, units of a
    inliers: Bool[ndarray, " n"]  # within the Huber threshold

    @property
    def inlier_share(self) -> float:
        return float(self.inliers.mean())


def robust_align(
    xyz_a: Float[ndarray, "n 3"],
    xyz_b: Float[ndarray, "n 3"],
    weights: Float[ndarray, " n"],
    *,
    scale: float | None = None,
    iterations: int = 10,
) -> Alignment:
    """IRLS with Huber weights whose threshold follows the residuals' own spread (MAD).

    An absolute threshold would depend on the scale of the scene.
    """
    w = weights.copy()
    fit = _fit(xyz_a, xyz_b, w, scale)
    distance = np.linalg.norm(xyz_a - fit.apply(xyz_b), axis=1)
    sigma = 0.0
    for _ in range(iterations):
        sigma = max(MAD_TO_SIGMA * float(np.median(distance)), 1e-12)
        w = weights * np.minimum(1.0, HUBER * sigma / np.maximum(distance, 1e-12))
        w[distance > 6 * sigma] = 0.0  # gross outliers have no say
        previous, fit = fit, _fit(xyz_a, xyz_b, w, scale)
        distance = np.linalg.norm(xyz_a - fit.apply(xyz_b), axis=1)
        change = np.abs(fit.as_matrix() - previous.as_matrix()).max()
        if change < 1e-9 * (1 + np.abs(fit.t).max()):
            break
    return Alignment(fit, sigma, distance <= 2.5 * sigma)


def _fit(
    xyz_a: Float[ndarray, "n 3"],
    xyz_b: Float[ndarray, "n 3"],
    weights: Float[ndarray, " n"],
    scale: float | None,
) -> Sim3:
    if scale is None:
        return umeyama(xyz_a, xyz_b, weights)
    return rigid_with_scale(xyz_a, xyz_b, weights, scale)
