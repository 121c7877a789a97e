"""Which pixels of a submap become points of the map: those that hang in the air do not."""

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from numpy import ndarray

from scal3r_ros.geometry.camera import unproject
from scal3r_ros.geometry.sim3 import invert_pose
from scal3r_ros.mapping.config import PointMapConfig
from scal3r_ros.mapping.types import Submap

VIEWS = (-5, -3, -2, -1, 1, 2, 3, 5)  # keyframes away, that are asked about a frame's points
REACH, CLOSE = 2, 0.05  # pixels around that are neighbours; relative depth at which they are close


def frame_filter(
    submap: Submap, slot: int, median: float, config: PointMapConfig
) -> Bool[ndarray, "h w"]:
    """Confidence, gate certainty, isolation, grazing angle, agreement with other frames."""
    depth = submap.depth[slot].astype(np.float32)
    keep = (depth > 0) & (depth < config.max_depth * median)
    for values, share in (
        (submap.confidence[slot], config.drop_confidence),
        (submap.edge_certainty[slot], config.drop_certainty),
    ):
        keep &= values >= np.quantile(values.astype(np.float32), share)
    keep &= close_neighbours(depth) >= config.isolation
    xyz = unproject(depth, submap.K[slot]).astype(np.float32)
    keep &= facing_cosine(xyz) >= config.grazing_cos
    others = [slot + step for step in VIEWS if 0 <= slot + step < len(submap.depth)]
    if others:
        keep[keep] = _agreed(submap, slot, others, xyz[keep], config)
    return keep


def _agreed(
    submap: Submap,
    slot: int,
    others: list[int],
    xyz: Float32[ndarray, "n 3"],
    config: PointMapConfig,
) -> Bool[ndarray, " n"]:
    """Enough other frames see a point where it is, and at most half as many look through it."""
    support, conflict = np.zeros((2, len(xyz)), np.uint8)
    for other in others:
        same, through = seen_from(submap, slot, other, xyz, config.consistency)
        support += same
        conflict += through
    return (support >= min(config.min_support, len(others))) & (conflict * 2 <= support)


def close_neighbours(depth: Float32[ndarray, "h w"]) -> UInt8[ndarray, "h w"]:
    """How many of the 24 pixels around have about the same depth: flying points have few."""
    padded, bound = np.pad(depth, REACH), CLOSE * depth
    height, width = depth.shape
    count = np.zeros(depth.shape, np.uint8)
    for dy in range(2 * REACH + 1):
        for dx in range(2 * REACH + 1):
            if (dy, dx) != (REACH, REACH):
                count += np.abs(padded[dy : dy + height, dx : dx + width] - depth) < bound
    return count


def facing_cosine(xyz: Float32[ndarray, "h w 3"]) -> Float32[ndarray, "h w"]:
    """Cosine between the viewing ray and the surface normal: 0 where the surface is grazed."""
    x, y, z = np.moveaxis(xyz, -1, 0)
    (ay, ax), (by, bx), (cy, cx) = (np.gradient(axis) for axis in (x, y, z))  # down, across
    normal = bx * cy - cx * by, cx * ay - ax * cy, ax * by - bx * ay
    squared = sum(n * n for n in normal) * (x * x + y * y + z * z)
    toward = normal[0] * x + normal[1] * y + normal[2] * z
    return np.abs(toward) / np.sqrt(np.maximum(squared, np.finfo(np.float32).tiny))


def seen_from(
    submap: Submap, slot: int, other: int, xyz: Float32[ndarray, "n 3"], tolerance: float
) -> tuple[Bool[ndarray, " n"], Bool[ndarray, " n"]]:
    """Which points (in the camera frame of `slot`) another frame sees at the same place, and which
    it looks through."""
    T_other_cam = invert_pose(submap.T_submap_cam[other]) @ submap.T_submap_cam[slot]
    P = (submap.K[other] @ T_other_cam[:3]).astype(np.float32)
    u, v, z = P[:, :3] @ xyz.T + P[:, 3:]
    there = _looked_up(submap.depth[other], u, v, z)
    visible = there > 0
    same = visible & (np.abs(there - z) <= tolerance * np.maximum(there, z))
    through = visible & (there > z * (1 + 2 * tolerance))
    return same, through


def _looked_up(
    depth: Float[ndarray, "h w"],
    u: Float32[ndarray, " n"],
    v: Float32[ndarray, " n"],
    z: Float32[ndarray, " n"],
) -> Float32[ndarray, " n"]:
    """Depth of the pixels at (u / z, v / z), 0 beside the image and behind the camera."""
    height, width = depth.shape
    inside = np.flatnonzero((z > 0) & (u >= 0) & (v >= 0) & (u < width * z) & (v < height * z))
    column, row = ((w[inside] / z[inside]).astype(np.int32) for w in (u, v))
    there = np.zeros(z.shape, np.float32)
    there[inside] = depth[row.clip(max=height - 1), column.clip(max=width - 1)]
    return there
