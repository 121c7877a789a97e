"""The keyframe a tracker works against: an image with depth and pose."""

from dataclasses import dataclass

from jaxtyping import Float, Float32, UInt8
from numpy import ndarray


@dataclass(frozen=True, eq=False)
class Keyframe:
    """`image` and `depth` show the same view, each at its own resolution."""

    index: int  # of the image in the stream
    stamp_ns: int
    image: UInt8[ndarray, "h w 3"]  # RGB
    depth: Float32[ndarray, "hd wd"]  # along z, map units, 0 = none
    K: Float[ndarray, "3 3"]  # pixels of `image`
    T_map_cam: Float[ndarray, "4 4"]
    unit: float = 1.0  # of the map, against the one that its session began with
