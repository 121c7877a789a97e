"""Triangulated points of a chunk with the observations behind them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray


@dataclass(frozen=True, eq=False)
class Landmarks:
    xyz: Float[ndarray, "m 3"]  # submap frame
    parallax_rad: Float[ndarray, " m"]  # largest angle between two of its rays
    frame: Int[ndarray, " n"]
    track: Int[ndarray, " n"]  # row of xyz
    xy: Float[ndarray, "n 2"]  # normalised image coordinates
    predicted: Float[ndarray, " n"]  # depth there, measured where anything is; 0 = none
    rms_px: float

    def depths(self, T_submap_cam: Float[ndarray, "s 4 4"]) -> Float[ndarray, " n"]:
        """Depth of every observation's point in its frame."""
        T = T_submap_cam[self.frame]
        offset = self.xyz[self.track] - T[:, :3, 3]
        return np.einsum("ni,ni->n", T[:, :3, 2], offset)
