"""The tracker's settings and its answer."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray


@dataclass(frozen=True)
class TrackerConfig:
    max_width: int = 320  # pixels at which is tracked: fast motion is followed further than at more
    features: int = 300
    min_inliers: int = 15  # fewer, or fewer of known depth: coasting
    history: int = 64  # images kept for late keyframes
    catch_up: int = 8  # images through which a late keyframe's corners are followed
    coast_decay_s: float = 0.2  # blind, the velocity fades to rest with this time constant
    depth_sigma: float = 0.1  # of a keyframe's log depth
    scale_bleed: float = 0.8  # share of a scale jump that a new keyframe lets through
    floor_translation: float = 0.0005  # standard deviation, share of the median depth
    floor_rotation_rad: float = 0.0003
    coast_translation: float = 0.12  # growth of the deviation a second, share of the median depth
    coast_rotation_rad: float = 0.18  # growth a second
    min_parallax_rad: float = 0.03  # of a corner that odometry triangulates

    def floors(self, median_depth: float) -> Float[ndarray, " 2"]:
        """The least standard deviations of translation and rotation."""
        return np.array([self.floor_translation * median_depth, self.floor_rotation_rad])


@dataclass(frozen=True, eq=False)
class TrackedPose:
    stamp_ns: int
    T_odom_cam: Float[ndarray, "4 4"]
    covariance: Float[ndarray, "6 6"]  # translation (map units), rotation (rad), axes of odom
    state: str  # tracking or coasting
    inliers: int
