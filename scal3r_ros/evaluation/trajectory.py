"""Trajectories against the truth: absolute and relative errors after a stated alignment."""

from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.spatial.transform import Rotation

from scal3r_ros.data.tum import Trajectory
from scal3r_ros.geometry.align import rigid_with_scale, umeyama
from scal3r_ros.geometry.sim3 import Sim3, invert_pose

ALIGNMENTS = ("sim3", "se3", "none")
TOLERANCE_NS = 10_000_000  # between a pose and the true one at its time


@dataclass(frozen=True)
class TrajectoryErrors:
    """Lengths in units of the truth, angles in degrees."""

    matched: int  # poses with a true one at the same time
    alignment: str
    scale: float  # applied to the estimate
    path_length: float
    ate_rmse: float
    ate_median: float
    ate_max: float
    ate_share: float  # RMSE over path length
    rpe_translation: float  # RMSE over one second
    rpe_rotation_deg: float

    def as_dict(self) -> dict[str, float | int | str]:
        return asdict(self)


def associate(
    truth: Trajectory, estimate: Trajectory
) -> tuple[Float[ndarray, "n 4 4"], Float[ndarray, "n 4 4"], Float[ndarray, " n"]]:
    """Poses of nearest stamps within TOLERANCE_NS, and the estimate's stamps [s]."""
    true_stamps = np.array(sorted(truth), dtype=np.int64)
    pairs = []
    for stamp in sorted(estimate):
        position = int(np.searchsorted(true_stamps, stamp))
        near = true_stamps[max(0, position - 1) : position + 1]
        best = int(near[np.argmin(np.abs(near - stamp))])
        if abs(best - stamp) <= TOLERANCE_NS:
            pairs.append((best, stamp))
    if len(pairs) < 3:
        raise ValueError(f"at least 3 poses with a true one are needed, got {len(pairs)}")
    first = pairs[0][1]
    return (
        np.stack([truth[a] for a, _ in pairs]),
        np.stack([estimate[b] for _, b in pairs]),
        np.array([(b - first) / 1e9 for _, b in pairs]),
    )


def evaluate(truth: Trajectory, estimate: Trajectory, alignment: str = "sim3") -> TrajectoryErrors:
    """ATE (Sturm et al. 2012) and relative error over one second."""
    A, B, seconds = associate(truth, estimate)
    T = align(A[:, :3, 3], B[:, :3, 3], alignment)
    aligned = T.apply_pose(B)
    error = np.linalg.norm(aligned[:, :3, 3] - A[:, :3, 3], axis=1)
    path = float(np.linalg.norm(np.diff(A[:, :3, 3], axis=0), axis=1).sum())
    translation, rotation = relative_errors(A, aligned, seconds)
    rmse = float(np.sqrt((error**2).mean()))
    return TrajectoryErrors(
        matched=len(A),
        alignment=alignment,
        scale=T.s,
        path_length=path,
        ate_rmse=rmse,
        ate_median=float(np.median(error)),
        ate_max=float(error.max()),
        ate_share=rmse / path if path > 0 else np.nan,
        rpe_translation=translation,
        rpe_rotation_deg=rotation,
    )


def aligned_places(
    truth: Trajectory, estimate: Trajectory, alignment: str = "sim3"
) -> tuple[Float[ndarray, "n 3"], Float[ndarray, "n 3"]]:
    """Positions at the same times, the estimate's brought to the truth."""
    A, B, _ = associate(truth, estimate)
    T = align(A[:, :3, 3], B[:, :3, 3], alignment)
    return A[:, :3, 3], T.apply(B[:, :3, 3])


def align(xyz_a: Float[ndarray, "n 3"], xyz_b: Float[ndarray, "n 3"], alignment: str) -> Sim3:
    weights = np.ones(len(xyz_a))
    if alignment == "sim3":
        return umeyama(xyz_a, xyz_b, weights, allow_line=True)
    if alignment == "se3":
        return rigid_with_scale(xyz_a, xyz_b, weights, 1.0)
    if alignment == "none":
        return Sim3.identity()
    raise ValueError(f"alignment must be one of {ALIGNMENTS}, got {alignment}")


def relative_errors(
    A: Float[ndarray, "n 4 4"], B: Float[ndarray, "n 4 4"], seconds: Float[ndarray, " n"]
) -> tuple[float, float]:
    """RMSE of the motion over one second: translation, rotation [deg]; NaN on shorter runs."""
    errors = motion_errors(A, B, seconds)
    if not len(errors):
        return np.nan, np.nan
    translation, rotation = np.sqrt((errors**2).mean(axis=0))
    return float(translation), float(rotation)


def motion_errors(
    A: Float[ndarray, "n 4 4"], B: Float[ndarray, "n 4 4"], seconds: Float[ndarray, " n"]
) -> Float[ndarray, "m 2"]:
    """(translation, rotation [deg]) by which B's motion over one second differs from A's."""
    ends = np.searchsorted(seconds, seconds + 1.0 - 1e-6)
    starts = np.flatnonzero(ends < len(seconds))
    ends = ends[starts]
    error = invert_pose(invert_pose(A[starts]) @ A[ends]) @ invert_pose(B[starts]) @ B[ends]
    angles = np.degrees(Rotation.from_matrix(error[:, :3, :3]).magnitude()) if len(error) else []
    return np.stack([np.linalg.norm(error[:, :3, 3], axis=1), np.asarray(angles)], axis=1)
