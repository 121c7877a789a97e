"""Depth corrected by geometry: a field of log corrections that follows the image's edges."""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8
from numpy import ndarray

from scal3r_ros.geometry.camera import scale_intrinsics
from scal3r_ros.mapping.config import RefinementConfig
from scal3r_ros.mapping.dense_flow import DenseMatcher, FlowDepth, View, matching_size
from scal3r_ros.mapping.landmarks import Landmarks
from scal3r_ros.mapping.measured_depth import MeasuredDepth
from scal3r_ros.mapping.types import Chunk, Prediction

SIGMA = 0.05  # log depth; a sample this good has weight one
LANDMARK_WEIGHT = 4.0  # of a landmark with full parallax
MAX_WEIGHT = 4.0
MAX_LOG_CORRECTION = 1.5
MIN_SAMPLES = 12
COARSE_PX = 8
FINE_PX = 2  # radius of the last, finest window


def correct_depth(
    chunk: Chunk,
    prediction: Prediction,
    landmarks: Landmarks,
    measured: MeasuredDepth | None,
    matcher: DenseMatcher,
    greys: Sequence[UInt8[ndarray, "a b"]],
    config: RefinementConfig,
    first: int = 0,
) -> Prediction:
    """Depth and confidence of every frame from the `first` on; frames of which nothing is known
    keep theirs. `greys`: the frames' images, of any size."""
    height, width = prediction.depth.shape[1:]
    T = prediction.T_submap_cam
    dense: Sequence[FlowDepth | None] = [None] * (len(T) - first)
    if config.densify:
        dense = _flow_depths(chunk, prediction, matcher, greys, first)
    z = landmarks.depths(T)
    depth, confidence = prediction.depth.copy(), prediction.confidence.copy()
    trust = np.minimum(1.0, landmarks.parallax_rad / (2 * config.min_parallax_rad)) ** 2
    trust[landmarks.parallax_rad < config.min_parallax_rad] = 0.0
    for i, flow in enumerate(dense, first):
        flow = measured.beside(flow, i) if measured is not None else flow
        uv = landmarks.xy * prediction.K[i, [0, 1], [0, 1]] + prediction.K[i, :2, 2]
        use = (landmarks.frame == i) & (z > 0) & (trust[landmarks.track] > 0)
        use[use] = depth[i][_rows(uv[use], depth[i].shape)] > 0
        uv = uv[use]
        residual, weight = _samples(depth[i], uv, np.log(z[use]), flow)
        weight = _splat(weight, uv, LANDMARK_WEIGHT * trust[landmarks.track[use]])
        if np.count_nonzero(weight) < MIN_SAMPLES:
            continue
        grey = matcher.grey(chunk.frames[i].index, greys[i], height, width)
        field, support = correction_field(depth[i], grey, residual, weight, config)
        depth[i] *= np.exp(field)
        confidence[i] = 1 + (confidence[i] - 1) * (0.3 + support)
    return replace(prediction, depth=depth, confidence=confidence)


def _flow_depths(
    chunk: Chunk,
    prediction: Prediction,
    matcher: DenseMatcher,
    greys: Sequence[UInt8[ndarray, "a b"]],
    first: int = 0,
) -> list[FlowDepth]:
    """Of every frame from the `first` on, at the depth's size."""
    height, width = prediction.depth.shape[1:]
    size = matching_size(height, width)
    K = scale_intrinsics(prediction.K, (height, width), size)
    distance = np.median(prediction.depth[:, ::4, ::4], axis=(1, 2)).tolist()
    frames = zip(chunk.frames, greys, K, prediction.T_submap_cam, distance, strict=True)
    views = [View(f.index, matcher.grey(f.index, g, *size), *rest) for f, g, *rest in frames]
    return [found.at_size(height, width) for found in matcher.flow_depths(views, first)]


def _samples(
    depth: Float32[ndarray, "h w"],
    uv: Float[ndarray, "n 2"],
    log_z: Float[ndarray, " n"],
    dense: FlowDepth | None,
) -> tuple[Float32[ndarray, "h w"], Float32[ndarray, "h w"]]:
    """Measured minus predicted log depth, and weights; the landmarks' own weight is added later."""
    log_depth = np.log(np.maximum(depth, 1e-9))
    residual, weight = np.zeros_like(depth), np.zeros_like(depth)
    if dense is not None:
        weight = np.minimum(dense.information * SIGMA**2, MAX_WEIGHT)
        residual = dense.log_depth - log_depth
    v, u = _rows(uv, depth.shape)
    residual[v, u] = log_z - log_depth[v, u]
    weight[depth <= 0] = 0.0
    return residual, weight


def _rows(
    uv: Float[ndarray, "n 2"], shape: tuple[int, ...]
) -> tuple[Int[ndarray, " n"], Int[ndarray, " n"]]:
    u, v = np.floor(uv).astype(np.int64).T
    return v.clip(0, shape[0] - 1), u.clip(0, shape[1] - 1)


def _splat(
    weight: Float32[ndarray, "h w"], uv: Float[ndarray, "n 2"], added: Float[ndarray, " n"]
) -> Float32[ndarray, "h w"]:
    weight = weight.copy()
    weight[_rows(uv, weight.shape)] = added
    return weight


def correction_field(
    depth: Float32[ndarray, "h w"],
    grey: UInt8[ndarray, "h w"],
    residual: Float32[ndarray, "h w"],
    weight: Float32[ndarray, "h w"],
    config: RefinementConfig,
) -> tuple[Float32[ndarray, "h w"], Float32[ndarray, "h w"]]:
    """Log correction from wide windows to narrow ones, and in 0..1 how much samples support it.

    Wide windows fit a line in the predicted log depth (scale and contrast of the prediction),
    narrow ones a line in the brightness, so that corrections stop at edges (guided filter, He et
    al. 2010, with weights). The prior of every window pulls to no further correction.
    """
    known = weight > 0
    middle = _median(residual, known)
    field = np.full_like(residual, middle)
    log_depth = np.log(np.maximum(depth, 1e-9))
    bright = grey.astype(np.float32) / 255
    diagonal = float(np.hypot(*depth.shape))
    wide, narrow = config.depth_smoothing * diagonal, config.depth_smoothing * diagonal / 3
    support = np.zeros_like(field)
    stages = (
        (log_depth, 2.0 * wide, 0.05, 2.0),
        (log_depth, wide, 0.05, 1.0),
        (bright, narrow, 0.01, 0.5),
        (bright, FINE_PX, 0.002, 0.5),
    )
    for guide, radius, epsilon, prior in stages:
        rest = (residual - field) * known
        reach = max(1, round(radius))
        robust = _robust(rest, weight)
        if reach > COARSE_PX:  # as smooth from every second pixel
            halves = (x[::2, ::2] for x in (guide, rest, robust))
            slope, offset, _ = _guided(*halves, reach // 2, epsilon, prior / 4)
            slope, offset = (cv2.resize(x, guide.shape[::-1]) for x in (slope, offset))
        else:
            slope, offset, support = _guided(guide, rest, robust, reach, epsilon, prior)
        step = slope * guide + offset
        field = field + step
    return np.clip(field, -MAX_LOG_CORRECTION, MAX_LOG_CORRECTION), support


def _box(x: Float[ndarray, "h w"], radius: int) -> Float32[ndarray, "h w"]:
    """Sums over square windows; nothing lies beyond the image."""
    side = (2 * radius + 1, 2 * radius + 1)
    values = x.astype(np.float32)
    return cv2.boxFilter(values, -1, side, normalize=False, borderType=cv2.BORDER_CONSTANT)


def _median(value: Float32[ndarray, "h w"], known: Bool[ndarray, "h w"]) -> float:
    """From every fourth pixel, where enough of them are known."""
    sample = value[::4, ::4][known[::4, ::4]]
    return float(np.median(sample if len(sample) >= MIN_SAMPLES else value[known]))


def _robust(
    value: Float32[ndarray, "h w"], weight: Float32[ndarray, "h w"]
) -> Float32[ndarray, "h w"]:
    """Weights (Cauchy) against samples that no correction so far explains."""
    spread = max(1.5 * _median(np.abs(value), weight > 0), 0.02)
    return (weight / (1 + (value / (2 * spread)) ** 2)).astype(np.float32)


def _guided(
    guide: Float32[ndarray, "h w"],
    value: Float32[ndarray, "h w"],
    weight: Float32[ndarray, "h w"],
    radius: int,
    epsilon: float,
    prior: float,
) -> tuple[Float32[ndarray, "h w"], Float32[ndarray, "h w"], Float32[ndarray, "h w"]]:
    """Weighted guided filter: slope and offset of the line in `guide`, and the share of the data
    against the prior."""

    def total(x: Float[ndarray, "h w"]) -> Float32[ndarray, "h w"]:
        return _box(x, radius)

    W = np.maximum(total(weight), 0.0)
    share = W / (W + prior)
    safe = np.maximum(W, 1e-6)
    mean_guide, mean_value = total(weight * guide) / safe, total(weight * value) / safe
    variance = np.maximum(total(weight * guide * guide) / safe - mean_guide**2, 0.0)
    covariance = total(weight * guide * value) / safe - mean_guide * mean_value
    slope = share * covariance / (variance + epsilon)
    offset = share * mean_value - slope * mean_guide
    certain = share + 1e-3
    area = total(certain)
    return total(certain * slope) / area, total(certain * offset) / area, share
