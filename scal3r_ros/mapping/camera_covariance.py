"""How sure the newest camera's pose in the map is."""

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from scal3r_ros.mapping.types import Submap


def camera_covariance(submap: Submap, marginal: Float[ndarray, "7 7"]) -> Float[ndarray, "6 6"]:
    """(translation [map units], rotation [rad]) of a submap's newest camera, in the map's axes.

    The `marginal` of the submap in the graph (tangent of rotation, translation and log scale, in
    its own axes) moves a camera by its arm from the submap's origin; and of that arm the submap
    itself is unsure.
    """
    arm = submap.T_submap_cam[-1, :3, 3]
    moved = np.zeros((6, 7))
    moved[:3] = np.concatenate([np.cross(np.eye(3), arm).T, np.eye(3), arm[:, None]], axis=1)
    moved[3:, :3] = np.eye(3)
    own = np.zeros((6, 6))
    if submap.far_end is not None:
        R_submap_cam = submap.T_submap_cam[-1, :3, :3]
        own[:3, :3] = np.diag(submap.far_end[3:6] ** 2)
        own[3:, 3:] = R_submap_cam @ np.diag(submap.far_end[:3] ** 2) @ R_submap_cam.T
    axes = np.kron(np.diag([submap.T_map_submap.s, 1.0]), submap.T_map_submap.R)
    return axes @ (moved @ marginal @ moved.T + own) @ axes.T
