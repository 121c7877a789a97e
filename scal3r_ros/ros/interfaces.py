"""Our generated messages, in one place: moving them to a package of their own changes this file."""

from scal3r_ros.msg import Chunk, Corrections, Keyframe, ScaleEstimate, Status
from scal3r_ros.srv import GetTrajectory, LoadMap, SaveMap, SetMode, SetScale

__all__ = [
    "Chunk",
    "Corrections",
    "GetTrajectory",
    "Keyframe",
    "LoadMap",
    "SaveMap",
    "ScaleEstimate",
    "SetMode",
    "SetScale",
    "Status",
]
