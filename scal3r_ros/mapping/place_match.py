"""Whether two keyframes show the same place, and where one stands in the other's submap.

Learned descriptors only propose. Here local features (SIFT, Lowe 2004) of both images are matched,
lifted with the old submap's depth, and the new camera must stand where many of them agree.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from scal3r_ros.geometry.align import MAD_TO_SIGMA
from scal3r_ros.geometry.camera import scale_intrinsics, transform_points, unproject_pixels
from scal3r_ros.geometry.sim3 import Sim3, invert_pose
from scal3r_ros.mapping.config import LoopConfig
from scal3r_ros.mapping.local_features import LocalFeatures, local_features, match_features
from scal3r_ros.mapping.types import Submap

CONTRAST = 0.02
MIN_REPROJECTION_PX = 1.5
REPROJECTION = 4.0 / 640  # share of the width
RANSAC_ROUNDS = 300


@dataclass(frozen=True)
class Detail:
    """How closely an image is looked at."""

    width: int  # pixels, of larger images
    features: int


FINE, ROUGH = Detail(640, 1500), Detail(160, 400)


@dataclass(frozen=True, eq=False)
class View:
    """A keyframe's features, with what is needed to lift them."""

    features: LocalFeatures
    depth: Float[ndarray, " n"]  # submap units, 0 = none
    K: Float[ndarray, "3 3"]
    T_submap_cam: Float[ndarray, "4 4"]
    submap: int
    width: int  # of the image, pixels
    spread: float  # its diagonal


@dataclass(frozen=True, eq=False)
class PlaceMatch:
    """T_old_new between two submaps, from one pair of images."""

    T_old_new: Sim3
    inliers: int
    share: float  # of the matches
    coverage: float  # of the inliers in the new image: 0 in one spot, 1 all over
    log_spread: float  # of the depth ratios, standard deviation of the log


def view_of(
    image: UInt8[ndarray, "h w 3"], submap: Submap, slot: int, detail: Detail = FINE
) -> View:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    height, width = grey.shape
    size = min(width, detail.width), round(height * min(1.0, detail.width / width))
    grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    grey = cv2.createCLAHE(2.0, (8, 8)).apply(grey)  # dark places have features too
    features = local_features(grey, detail.features, CONTRAST)
    depth = submap.depth[slot].astype(np.float64)
    scale = np.array(depth.shape[::-1]) / np.array(size)
    column, row = np.floor(features.uv * scale).astype(int).T
    near = depth[row.clip(0, depth.shape[0] - 1), column.clip(0, depth.shape[1] - 1)]
    return View(
        features,
        near,
        scale_intrinsics(submap.K[slot], depth.shape, size[::-1]),
        submap.T_submap_cam[slot],
        submap.index,
        size[0],
        float(np.hypot(*size)),
    )


def match_places(old: View, new: View, min_inliers: int) -> PlaceMatch | None:
    """None where fewer than `min_inliers` matches agree on one camera pose."""
    first, second = match_features(old.features, new.features)
    use = (old.depth[first] > 0) & (new.depth[second] > 0)
    first, second = first[use], second[use]
    if len(first) < min_inliers:
        return None
    lifted = unproject_pixels(old.features.uv[first], old.depth[first], old.K)
    xyz_old = transform_points(old.T_submap_cam, lifted)
    found, turn, shift, inliers = cv2.solvePnPRansac(
        xyz_old,
        new.features.uv[second],
        new.K,
        None,
        iterationsCount=RANSAC_ROUNDS,
        reprojectionError=max(MIN_REPROJECTION_PX, REPROJECTION * new.width),
        flags=cv2.SOLVEPNP_AP3P,
    )
    if not found or inliers is None or len(inliers) < min_inliers:
        return None
    rows = np.asarray(inliers)[:, 0]
    xyz, uv = xyz_old[rows], new.features.uv[second][rows]
    turn, shift = cv2.solvePnPRefineLM(xyz, uv, new.K, None, turn, shift)
    T_cam_old = np.eye(4)
    T_cam_old[:3, :3], T_cam_old[:3, 3] = cv2.Rodrigues(turn)[0], np.asarray(shift)[:, 0]
    z = transform_points(T_cam_old, xyz)[:, 2]
    if np.median(z) <= 0:
        return None
    ratio = np.log(np.maximum(z, 1e-9) / new.depth[second][rows])
    log_scale = float(np.median(ratio))
    spread = MAD_TO_SIGMA * float(np.median(np.abs(ratio - log_scale)))
    T_old_cam = Sim3.from_pose(invert_pose(T_cam_old), float(np.exp(log_scale)))
    T_old_new = T_old_cam @ Sim3.from_pose(invert_pose(new.T_submap_cam))
    coverage = float(2 * uv.std(axis=0).mean() / (0.29 * new.spread))
    return PlaceMatch(T_old_new, len(rows), len(rows) / len(first), coverage, spread)


def agree(difference: Float[ndarray, " 7"], depth: float, config: LoopConfig) -> bool:
    """Whether two measurements of a loop say the same; `depth` of the scene in the unit of their
    difference."""
    return (
        float(np.linalg.norm(difference[:3])) < config.agree_rad
        and float(np.linalg.norm(difference[3:6])) < config.agree_depth * depth
        and abs(float(difference[6])) < config.agree_log_scale
    )


def loop_information(
    spread: Float[ndarray, " 7"], depth: float, scale: float
) -> Float[ndarray, "7 7"]:
    """Of a loop whose measurements spread so (in the new submap's units), `depth` of the scene and
    `scale` being those of the old submap: never better than features on network depth can be."""
    floors = np.array([0.02] * 3 + [0.04 * depth / scale] * 3 + [0.04])
    deviations = np.maximum(spread, floors)
    deviations[3:6] *= scale
    return np.diag(1 / deviations**2)
