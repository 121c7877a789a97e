"""The Sim(3) between two submaps that share frames, with the evidence for it."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.linalg import block_diag

from scal3r_ros.geometry.align import (
    MAD_TO_SIGMA,
    AlignmentError,
    nearest_rotation,
    robust_align,
    umeyama,
)
from scal3r_ros.geometry.camera import scale_intrinsics, unproject
from scal3r_ros.geometry.sim3 import Sim3
from scal3r_ros.mapping.config import RegistrationConfig
from scal3r_ros.mapping.types import Edge, Submap

logger = logging.getLogger(__name__)

DEPTH_SIGMA = 0.04  # of the log ratio of two depths, at best: errors are shared by all pixels
PATH_SIGMA = 0.02  # of the log ratio of two camera paths, at best
MAX_WEIGHT = 10.0  # of one point: confidence is no license to decide alone


class Estimate(NamedTuple):
    value: float
    deviation: float


@dataclass(frozen=True, eq=False)
class MatchedPoints:
    """The same pixels of the same frames in two submaps."""

    source: Float[ndarray, "n 3"]
    target: Float[ndarray, "n 3"]
    weights: Float[ndarray, " n"]
    log_ratios: Float[ndarray, " k"]  # log(target / source depth), median of every shared frame


def shared_frames(source: Submap, target: Submap) -> list[tuple[int, int]]:
    """(slot in source, slot in target) of every frame that both hold."""
    slots = {index: slot for slot, index in enumerate(target.frame_indices)}
    return [(i, slots[f]) for i, f in enumerate(source.frame_indices) if f in slots]


def overlap_edges(
    submap: Submap,
    others: Sequence[Submap],
    config: RegistrationConfig,
) -> list[Edge]:
    """Edges to all of the newest submaps that share frames with this one."""
    edges = []
    for other in reversed(others):
        if not shared_frames(submap, other):
            break
        try:
            edges.append(register(submap, other, config))
        except AlignmentError as error:
            logger.warning("submap %d: %s", submap.index, error)
    return edges


def register(
    source: Submap,
    target: Submap,
    config: RegistrationConfig,
    kind: str = "overlap",
) -> Edge:
    """T_target_source from the points of shared frames.

    The scale comes from the ratio of the two depths of the same pixels and from that of the two
    paths of the shared cameras, each by how well it agrees with itself, and from the prior that
    a unit which was carried over hardly changes; rotation and translation follow by IRLS. Carried
    poses agree whether or not they are right: how sure the target was of them counts as well.
    Raises AlignmentError where the submaps share no frame or the fit does not hold.
    """
    pairs = shared_frames(source, target)
    if not pairs:
        raise AlignmentError(f"submaps {source.index} and {target.index} share no frame")
    points = matched_points(source, target, pairs, config)
    count = len(points.weights)
    if count < config.min_points:
        raise AlignmentError(f"{config.min_points} shared points are needed, got {count}")
    log_scale = _log_scale(source, target, pairs, points.log_ratios)
    if source.carried:
        log_scale = _merged(log_scale, Estimate(0.0, config.scale_walk))
    scale, log_deviation = float(np.exp(log_scale.value)), log_scale.deviation
    fit = robust_align(
        points.target, points.source, points.weights, scale=scale, iterations=config.iterations
    )
    if fit.inlier_share < config.min_inliers:
        raise AlignmentError(
            f"submaps {source.index} and {target.index} agree on {fit.inlier_share:.0%} of points"
        )
    centred = points.target - points.target.mean(axis=0)
    depth = float(np.median(np.linalg.norm(centred, axis=1)))
    T = _with_shared_cameras(source, target, pairs, fit.T_a_b, fit.sigma)
    floors = np.array([config.rotation_floor, config.translation_floor * depth, config.scale_floor])
    inherited = _inherited(target, T) if source.carried else np.zeros((7, 7))
    return Edge(
        source=source.index,
        target=target.index,
        T_target_source=T,
        information=_information(fit.sigma, depth, log_deviation, len(pairs), floors, inherited),
        kind=kind,
        inliers=fit.inlier_share,
        residual=fit.sigma / max(depth, 1e-9),
    )


def matched_points(
    source: Submap,
    target: Submap,
    pairs: list[tuple[int, int]],
    config: RegistrationConfig,
) -> MatchedPoints:
    """Points of the shared frames; all frames count alike, so that one whose depth failed cannot
    decide, and within a frame far points count less, for their errors are larger."""
    height, width = source.depth.shape[1:]
    target = on_grid(target, (height, width))
    step = max(1, int(np.sqrt(len(pairs) * height * width / config.max_points)))
    i, j = (list(slots) for slots in zip(*pairs, strict=True))
    depth_i, xyz_i, confidence_i = points_of(source, i, step)
    depth_j, xyz_j, confidence_j = points_of(target, j, step)
    valid = (depth_i > 0) & (depth_j > 0)
    weight = np.sqrt(confidence_i * confidence_j).clip(max=MAX_WEIGHT)
    weight = np.where(valid, weight, 0.0) / np.where(valid, depth_j, 1.0) ** 2
    frames = valid.sum(axis=1)
    weight /= np.maximum(weight.sum(axis=1) / np.maximum(frames, 1), 1e-300)[:, None]
    log_ratios = [
        np.median(np.log(depth_j[k, rows]) - np.log(depth_i[k, rows]))
        for k, rows in enumerate(valid)
        if frames[k]
    ]
    return MatchedPoints(xyz_i[valid], xyz_j[valid], weight[valid], np.array(log_ratios))


def on_grid(submap: Submap, size: tuple[int, int]) -> Submap:
    """The submap with its depth in another size, of the nearest pixels: the network's images may
    have become smaller since."""
    if submap.depth.shape[1:] == size:
        return submap
    height, width = submap.depth.shape[1:]
    v, u = ((np.arange(n) + 0.5) * old / n for n, old in zip(size, (height, width), strict=True))
    rows, columns = v.astype(np.int64), u.astype(np.int64)
    K = submap.K.copy()
    K[:, :2, 2] -= [(columns + 0.5 - u).mean(), (rows + 0.5 - v).mean()]  # of the pixels' centres
    nearest = np.ix_(range(len(submap.depth)), rows, columns)
    return replace(
        submap,
        depth=submap.depth[nearest],
        confidence=submap.confidence[nearest],
        edge_certainty=submap.edge_certainty[nearest],
        thumbnails=submap.thumbnails[nearest],
        K=scale_intrinsics(K, (height, width), size),
    )


def points_of(
    submap: Submap, slots: list[int], step: int = 1
) -> tuple[Float[ndarray, "s n"], Float[ndarray, "s n 3"], Float[ndarray, "s n"]]:
    """Depth, place and confidence of every so many pixels of some frames."""
    depth = submap.depth[slots, ::step, ::step].astype(np.float64)
    confidence = submap.confidence[slots, ::step, ::step].astype(np.float64)
    K = submap.K[slots]
    K[:, :2] /= step
    K[:, :2, 2] += 0.5 - 0.5 / step  # the first pixel of each group stands for it
    T, s = submap.T_submap_cam[slots], len(slots)
    xyz = unproject(depth, K).reshape(s, -1, 3) @ T[:, :3, :3].transpose(0, 2, 1)
    return depth.reshape(s, -1), xyz + T[:, None, :3, 3], confidence.reshape(s, -1)


def _log_scale(
    source: Submap,
    target: Submap,
    pairs: list[tuple[int, int]],
    log_ratios: Float[ndarray, " k"],
) -> Estimate:
    """Of units of the target per unit of the source."""
    log_depth = float(np.median(log_ratios))
    spread = MAD_TO_SIGMA * float(np.median(np.abs(log_ratios - log_depth)))
    depth = Estimate(log_depth, max(spread, DEPTH_SIGMA))
    path = _path_scale(*_shared_paths(source, target, pairs))
    return depth if path is None else _merged(Estimate(*path), depth)


def _merged(a: Estimate, b: Estimate) -> Estimate:
    """Weighted mean; less sure where the two dispute more than they admit."""
    trust_a, trust_b = 1 / a.deviation**2, 1 / b.deviation**2
    mean = (trust_a * a.value + trust_b * b.value) / (trust_a + trust_b)
    dispute = abs(a.value - b.value) / np.hypot(a.deviation, b.deviation)
    return Estimate(mean, float(max(dispute, 1.0) / np.sqrt(trust_a + trust_b)))


def _path_scale(A: Float[ndarray, "n 3"], B: Float[ndarray, "n 3"]) -> tuple[float, float] | None:
    """Log ratio of the lengths of two paths, and its deviation: how badly they fit each other, and
    how much one camera decides (jackknife); None where a path has no length."""
    if min(np.linalg.norm(A), np.linalg.norm(B)) < 1e-9:
        return None
    log_ratio = _log_length_ratio(A, B)
    R = umeyama(A, B, np.ones(len(A)), allow_line=True).R if len(A) > 2 else np.eye(3)
    misfit = float(np.linalg.norm(A - np.exp(log_ratio) * B @ R.T) / np.linalg.norm(A))
    n = len(A)
    if n < 3:
        return log_ratio, max(misfit, 1.0)
    without = np.array(
        [_log_length_ratio(np.delete(A, k, 0), np.delete(B, k, 0)) for k in range(n)]
    )
    jackknife = float(np.sqrt((n - 1) * np.mean((without - without.mean()) ** 2)))
    return log_ratio, max(misfit, jackknife, PATH_SIGMA)


def _log_length_ratio(A: Float[ndarray, "n 3"], B: Float[ndarray, "n 3"]) -> float:
    a, b = np.linalg.norm(A - A.mean(axis=0)), np.linalg.norm(B - B.mean(axis=0))
    return float(np.log(max(a, 1e-12) / max(b, 1e-12)))


def _shared_paths(
    source: Submap, target: Submap, pairs: list[tuple[int, int]]
) -> tuple[Float[ndarray, "n 3"], Float[ndarray, "n 3"]]:
    """Centred camera positions of the shared frames, in target and in source."""
    i, j = (list(slots) for slots in zip(*pairs, strict=True))
    A, B = target.T_submap_cam[j][:, :3, 3], source.T_submap_cam[i][:, :3, 3]
    return A - A.mean(axis=0), B - B.mean(axis=0)


def _with_shared_cameras(
    source: Submap, target: Submap, pairs: list[tuple[int, int]], T: Sim3, sigma: float
) -> Sim3:
    """The fit from shared camera poses where these agree better than the points do: poses that
    were refined on features are more precise than depth."""
    if len(pairs) < 3:
        return T
    i, j = (list(slots) for slots in zip(*pairs, strict=True))
    A, B = target.T_submap_cam[j], source.T_submap_cam[i]
    R = nearest_rotation(np.einsum("nij,nkj->ik", A[:, :3, :3], B[:, :3, :3]))
    t = A[:, :3, 3].mean(0) - T.s * R @ B[:, :3, 3].mean(0)
    cameras = Sim3(R, t, T.s)
    error = np.linalg.norm(A[:, :3, 3] - cameras.apply(B[:, :3, 3]), axis=1)
    return cameras if np.sqrt((error**2).mean()) < 0.5 * sigma else T


def _information(
    sigma: float,
    depth: float,
    log_deviation: float,
    frames: int,
    floors: Float[ndarray, " 3"],
    inherited: Float[ndarray, "7 7"],
) -> Float[ndarray, "7 7"]:
    """Of (rotation, translation, log scale); errors within a frame are correlated, so the number
    of independent measurements is that of the shared frames."""
    once = np.array([sigma / max(depth, 1e-9), sigma]) / np.sqrt(frames)
    deviations = np.maximum([*once, log_deviation], floors).repeat([3, 3, 1])
    return np.linalg.inv(np.diag(deviations**2) + inherited)


def _inherited(target: Submap, T_target_source: Sim3) -> Float[ndarray, "7 7"]:
    """How unsure the target's newest camera is, in the source's axes: it turns about its own axes
    and shifts along the target's."""
    if target.far_end is None:
        return np.zeros((7, 7))
    R_source_target = T_target_source.R.T
    axes = block_diag(R_source_target @ target.T_submap_cam[-1, :3, :3], R_source_target, 1.0)
    return axes @ np.diag(target.far_end**2) @ axes.T
