"""The map's own poses as odometry, for robots that bring none."""

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from scal3r_ros.geometry.sim3 import invert_pose
from scal3r_ros.mapping.types import Submap


class OdometryChain:
    """One chunk carried on from the one before: what the graph corrects later never moves it.

    REP 105: odometry may drift and never jumps; corrections are the business of `T_map_odom`.
    """

    def __init__(self) -> None:
        self.T_map_odom = np.eye(4)
        self._last: tuple[int, Float[ndarray, "4 4"]] | None = None

    def extend(self, submap: Submap) -> list[tuple[int, Float[ndarray, "4 4"]]]:
        """(stamp [ns], T_odom_cam) of the frames that are new. Where the submap shares none with
        those before, its first camera stands where the last one stood."""
        stamps, T_map_cam = submap.stamps_ns, submap.T_map_submap.apply_pose(submap.T_submap_cam)
        first = 0
        if self._last is not None:
            last_ns, T_odom_last = self._last
            known = stamps.index(last_ns) if last_ns in stamps else None
            first = 0 if known is None else known + 1
            self.T_map_odom = T_map_cam[known or 0] @ invert_pose(T_odom_last)
        T_odom_cam = invert_pose(self.T_map_odom) @ T_map_cam
        new = list(zip(stamps, T_odom_cam, strict=True))[first:]
        self._last = new[-1] if new else self._last
        return new
