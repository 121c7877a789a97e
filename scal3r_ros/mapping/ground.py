"""The ground below the camera, and which way is up."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from scal3r_ros.geometry.align import MAD_TO_SIGMA
from scal3r_ros.geometry.camera import transform_points, unproject
from scal3r_ros.mapping.types import Submap

# Optical axes (x right, y down, z forward) of a level first camera in a z-up map (REP 103).
R_MAP_OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
MAX_POINTS = 6000
ROUNDS = 200
MAX_TILT_RAD = 0.5  # of the ground against the camera's own up
THICKNESS = 0.02  # of the plane, share of the camera's height
MIN_SHARE = 0.08  # of the points below the camera


@dataclass(frozen=True, eq=False)
class GroundPlane:
    up: Float[ndarray, " 3"]  # unit normal in the submap
    height: float  # of the cameras above it, submap units, median
    spread: float  # relative, of the inliers about the plane


def ground_plane(submap: Submap) -> GroundPlane | None:
    """The largest nearly level plane below the camera (RANSAC, then least squares).

    None where too little of what is seen lies on one plane. Up is sought around the mean up of the
    submap's cameras, which is right for a camera that looks roughly ahead.
    """
    xyz = _points(submap)
    up = -submap.T_submap_cam[:, :3, 1].mean(axis=0)
    up /= np.linalg.norm(up)
    centre = np.median(submap.T_submap_cam[:, :3, 3], axis=0)
    below = xyz[(xyz - centre) @ up < 0]
    if len(below) < 300:
        return None
    rng = np.random.default_rng(0)
    best: Float[ndarray, " n"] | None = None
    votes = 0
    for _ in range(ROUNDS):
        a, b, c = below[rng.choice(len(below), 3, replace=False)]
        normal = np.cross(b - a, c - a)
        length = float(np.linalg.norm(normal))
        if length <= 0:
            continue
        normal *= np.sign(normal @ up) / length
        height = float((centre - a) @ normal)
        if normal @ up < np.cos(MAX_TILT_RAD) or height <= 0:
            continue
        inside = np.abs((below - a) @ normal) < THICKNESS * height
        if inside.sum() > votes:
            best, votes = inside, int(inside.sum())
    if best is None or votes < MIN_SHARE * len(below):
        return None
    ground = below[best]
    middle = ground.mean(axis=0)
    normal = np.linalg.svd(ground - middle, full_matrices=False)[2][2]
    normal *= np.sign(normal @ up)
    heights = (submap.T_submap_cam[:, :3, 3] - middle) @ normal
    height = float(np.median(heights))
    if height <= 0:
        return None
    spread = MAD_TO_SIGMA * float(np.median(np.abs((ground - middle) @ normal))) / height
    return GroundPlane(normal, height, spread)


def upright(
    way: str,
    R_camera: Float[ndarray, "3 3"],
    submap: Submap,
    imu_up: Callable[[Submap], Float[ndarray, " 3"] | None],
) -> Float[ndarray, "3 3"] | None:
    """R_map_submap of the first submap by one of ORIENTATIONS; None where nothing tells it.
    `R_camera` is that of a camera whose mounting is known or taken to be level."""
    if way == "raw_optical":
        return np.eye(3)
    if way in ("base", "camera_level"):
        return R_camera
    if way == "ground":
        plane = ground_plane(submap)
        return None if plane is None else level(plane.up)
    up = imu_up(submap)
    return None if up is None else level(up)


def level(up: Float[ndarray, " 3"]) -> Float[ndarray, "3 3"]:
    """R_map_cam of a camera that sees `up` (its own axes): z up, looking along map x as far as it
    looks ahead at all (REP 103)."""
    z = up / np.linalg.norm(up)
    forward = np.array([0.0, 0.0, 1.0])
    if abs(z @ forward) > 0.99:  # it looks straight up or down: the image's top is ahead
        forward = np.array([0.0, -1.0, 0.0])
    x = forward - (forward @ z) * z
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z])


def _points(submap: Submap) -> Float[ndarray, "n 3"]:
    """Confident points of every second frame."""
    parts = []
    for slot in range(0, len(submap.depth), 2):
        depth = submap.depth[slot].astype(np.float64)
        confidence = submap.confidence[slot]
        keep = (depth > 0) & (confidence >= np.median(confidence))
        xyz = unproject(depth, submap.K[slot])[keep]
        parts.append(transform_points(submap.T_submap_cam[slot], xyz))
    points = np.concatenate(parts)
    return points[:: max(1, len(points) // MAX_POINTS)]
