"""What the robot's own odometry says of neighbouring submaps: a weak tie beside the strong one of
shared images, and the only one across a break (a covered lens, a lost cable), where none is shared.

Odometry is in metres, so nothing is tied before the map is metric.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.spatial.transform import Rotation

from scal3r_ros.geometry.sim3 import Sim3, invert_pose
from scal3r_ros.mapping.types import Chunk, Edge, Submap

# By how much odometry of wheels is off between two submaps: at least, and as a share.
TURN_RAD, TURN_SHARE = 0.02, 0.05
WAY_M, WAY_SHARE = 0.03, 0.05
LOG_SCALE = 0.3  # of a submap's unit against that of the one before, of which odometry says nothing
UNKNOWN = 1e3  # the same where shared images say it


class OdometryTies:
    """Remembers where the newest submap ended."""

    def __init__(self) -> None:
        self._ended: tuple[int, Float[ndarray, "4 4"]] | None = None  # submap, T_odom_cam

    def tie(
        self, chunk: Chunk, submap: Submap, before: Submap | None, edges: Sequence[Edge]
    ) -> Edge | None:
        """T_before_submap, in a metric map, by the way from the newest keyframe of `before` to the
        newest one here, or to the first one across a break, where no `edges` are. None where
        odometry is not known at both."""
        ended, end = self._ended, chunk.frames[-1].T_odom_cam
        self._ended = None if end is None else (submap.index, end)
        shared = {edge.target: edge.T_target_source.s for edge in edges}
        slot = -1 if shared else 0
        now = chunk.frames[slot].T_odom_cam
        if before is None or ended is None or ended[0] != before.index or now is None:
            return None
        if shared and before.index not in shared:
            return None
        way = invert_pose(ended[1]) @ now
        metres = float(np.linalg.norm(way[:3, 3]))
        turn = float(Rotation.from_matrix(way[:3, :3]).magnitude())
        unit = before.T_map_submap.s  # metres
        way[:3, 3] /= unit
        T_before_cam = Sim3.from_pose(before.T_submap_cam[-1] @ way, shared.get(before.index, 1.0))
        deviations = [TURN_RAD + TURN_SHARE * turn] * 3
        deviations += [(WAY_M + WAY_SHARE * metres) / unit] * 3
        deviations += [UNKNOWN if shared else LOG_SCALE]
        return Edge(
            source=submap.index,
            target=before.index,
            T_target_source=T_before_cam @ Sim3.from_pose(invert_pose(submap.T_submap_cam[slot])),
            information=np.diag(np.array(deviations) ** -2.0),
            kind="odometry",
            inliers=1.0,
            residual=0.0,
        )
