"""Depth of every pixel from optical flow between frames whose poses are known."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from numpy import ndarray

from scal3r_ros.geometry.camera import pixel_centres

STEPS = (1, 3)  # neighbours in keyframes, both ways
FLOW_SIGMA_PX = 0.35  # of DIS at a few hundred pixels of width
MAX_RETURN_PX = 1.0  # forward and backward flow must cancel
MAX_EPIPOLAR_PX = 1.5
MAX_SIGMA = 0.25  # of a log depth that is worth keeping
PATCH = 9  # pixels of a side, about that of DIS
TEXTURE = 4.0  # grey levels a pixel, gradient at which flow counts half
MARGIN = 0.02  # of the width, at the rim: patches of the flow reach beyond the image there
AGREEMENT = 0.12  # log depth, between the views of a pixel


@dataclass(frozen=True, eq=False)
class FlowDepth:
    """Triangulated log depth of one frame; information 0 where there is none."""

    log_depth: Float32[ndarray, "h w"]
    information: Float32[ndarray, "h w"]  # 1 / variance of the log depth


def flow_depths(
    greys: Sequence[UInt8[ndarray, "h w"]],
    K: Float[ndarray, "s 3 3"],
    T_submap_cam: Float[ndarray, "s 4 4"],
) -> list[FlowDepth]:
    """One for every frame, from the neighbours at STEPS on either side."""
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    flow.setFinestScale(0)
    flow.setUseSpatialPropagation(True)
    views: list[list[tuple[Float32[ndarray, "h w"], Float32[ndarray, "h w"]]]] = [[] for _ in greys]
    texture = [_texture(grey) for grey in greys]
    for step in STEPS:
        for i in range(len(greys) - step):
            j = i + step
            there = flow.calc(greys[i], greys[j], None)
            back = flow.calc(greys[j], greys[i], None)
            for a, b, ab, ba in ((i, j, there, back), (j, i, back, there)):
                T_b_a = np.linalg.inv(T_submap_cam[b]) @ T_submap_cam[a]
                seen = _triangulated(ab, ba, K[a], K[b], T_b_a)
                views[a].append((seen[0], seen[1] * texture[a]))
    return [_fused(view) for view in views]


def _texture(grey: UInt8[ndarray, "h w"]) -> Float32[ndarray, "h w"]:
    """0 where flow is a guess between its neighbours, 1 where the image itself says it."""
    dx, dy = (cv2.Sobel(grey, cv2.CV_32F, *order, scale=0.125) for order in ((1, 0), (0, 1)))
    energy = cv2.boxFilter(dx * dx + dy * dy, -1, (PATCH, PATCH))
    return energy / (energy + TEXTURE**2)


def _triangulated(
    flow: Float32[ndarray, "h w 2"],
    back: Float32[ndarray, "h w 2"],
    K_a: Float[ndarray, "3 3"],
    K_b: Float[ndarray, "3 3"],
    T_b_a: Float[ndarray, "4 4"],
) -> tuple[Float32[ndarray, "h w"], Float32[ndarray, "h w"]]:
    """Log depth in a and its information."""
    height, width = flow.shape[:2]
    uv = pixel_centres(height, width).astype(np.float32)
    matched = uv + flow
    u, v = (matched[..., k] - 0.5 for k in (0, 1))  # cv2's pixels
    returned = cv2.remap(back, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) + flow
    margin = MARGIN * width
    valid = np.ones(u.shape, bool)
    for x, y in ((u, v), (uv[..., 0], uv[..., 1])):
        valid &= (x > margin) & (y > margin) & (x < width - margin) & (y < height - margin)
    valid &= np.abs(returned).max(2) < MAX_RETURN_PX
    focal_a, focal_b = K_a[[0, 1], [0, 1]], K_b[[0, 1], [0, 1]]
    x_a, x_b = (uv - K_a[:2, 2]) / focal_a, (matched - K_b[:2, 2]) / focal_b
    R, t = T_b_a[:3, :3], T_b_a[:3, 3]
    turned = x_a @ R[:, :2].T + R[:, 2]
    # x_b = (turned + t / depth) projected: linear in the inverse depth
    scale = focal_b.mean() / np.maximum(turned[..., 2:], 0.1)
    A = (t[:2] - x_b * t[2]) * scale
    B = (x_b * turned[..., 2:] - turned[..., :2]) * scale
    normal = np.maximum((A * A).sum(2), 1e-12)
    inverse = (A * B).sum(2) / normal
    epipolar = np.abs(B - inverse[..., None] * A).max(2)
    sigma = FLOW_SIGMA_PX / (np.sqrt(normal) * np.maximum(inverse, 1e-9))
    valid &= (inverse > 1e-9) & (epipolar < MAX_EPIPOLAR_PX) & (sigma < MAX_SIGMA)
    information = np.where(valid, 1 / np.maximum(sigma, 0.02) ** 2, 0.0)
    log_depth = -np.log(np.maximum(inverse, 1e-9))
    return log_depth.astype(np.float32), information.astype(np.float32)


def _fused(
    views: Sequence[tuple[Float32[ndarray, "h w"], Float32[ndarray, "h w"]]],
) -> FlowDepth:
    """Weighted mean of the views near their median; a pixel that one view alone saw counts half."""
    logs, information = np.stack([v[0] for v in views]), np.stack([v[1] for v in views])
    seen: Bool[ndarray, "k h w"] = information > 0
    count = seen.sum(0)
    ordered = np.sort(np.where(seen, logs, np.inf), axis=0)
    middle = np.take_along_axis(ordered, np.maximum(count - 1, 0)[None] // 2, axis=0)[0]
    middle = np.where(count > 0, middle, 0.0)
    weight = information * (np.abs(logs - middle) < AGREEMENT)
    total = weight.sum(0)
    mean = (weight * logs).sum(0) / np.maximum(total, 1e-12)
    alone = np.where((weight > 0).sum(0) > 1, 1.0, 0.5)
    disputed = (weight > 0).sum(0) * 2 <= count  # no majority
    return FlowDepth(
        mean.astype(np.float32), np.where(disputed, 0.0, total * alone).astype(np.float32)
    )
