"""What bundle adjustment is asked, and what it changes."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray


@dataclass(frozen=True, eq=False)
class BundleProblem:
    """Observations beside the anchor's own, in frames other than it, sorted by track."""

    frame: Int[ndarray, " n"]
    track: Int[ndarray, " n"]
    xy: Float[ndarray, "n 2"]  # normalised image coordinates
    focal: Float[ndarray, "s 2"]  # pixels per unit of xy, by frame
    anchor: Int[ndarray, " m"]  # frame whose ray holds the point
    ray: Float[ndarray, "m 3"]  # z = 1, in the anchor's camera
    log_depth_prior: Float[ndarray, " m"]
    depth_sigma: Float[ndarray, " m"]  # of the log depth; infinity for none
    motion_prior: Float[ndarray, "pairs 4 4"]  # T_previous_next
    motion_sigma: Float[ndarray, "pairs 6"]  # rotation [rad], translation [submap units]
    interval: Float[ndarray, " pairs"]  # time between neighbouring frames over its median
    reference: int
    focal_sigma: float = 0.0  # of the logarithm of `focal`; 0: the camera is calibrated

    @cached_property
    def median_depth(self) -> float:
        return float(np.exp(np.median(self.log_depth_prior)))

    @cached_property
    def pairs(self) -> tuple[Int[ndarray, " n"], Int[ndarray, " k1"], Int[ndarray, "k 2"]]:
        """Order of the observations by (anchor, frame), where each pair begins, the pairs."""
        key = self.anchor[self.track] * len(self.focal) + self.frame
        order = np.argsort(key, kind="stable")
        names, first = np.unique(key[order], return_index=True)
        pairs = np.stack(np.divmod(names, len(self.focal)), 1)
        return order, np.append(first, len(key)), pairs


@dataclass(frozen=True, eq=False)
class BundleState:
    T_submap_cam: Float[ndarray, "s 4 4"]
    log_depth: Float[ndarray, " m"]  # in the anchor
    log_focal: float = 0.0  # of the true focal length over the problem's, one for all frames


def huber(x: Float[ndarray, " n"], delta: float) -> Float[ndarray, " n"]:
    return np.where(x <= delta, 0.5 * x * x, delta * (x - 0.5 * delta))


def huber_weight(x: Float[ndarray, " n"], delta: float) -> Float[ndarray, " n"]:
    return np.minimum(1.0, delta / np.maximum(x, 1e-12))
