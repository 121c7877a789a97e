"""Velocities, steps, and places in another unit of length."""

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.spatial.transform import Rotation


def stretched(
    T: Float[ndarray, "*batch 4 4"], centre: Float[ndarray, " 3"], factor: float
) -> Float[ndarray, "*batch 4 4"]:
    """Poses whose places move away from `centre` by a factor."""
    T = T.copy()
    T[..., :3, 3] = centre + factor * (T[..., :3, 3] - centre)
    return T


def step_of(velocity: Float[ndarray, " 6"], seconds: float) -> Float[ndarray, "4 4"]:
    T = np.eye(4)
    T[:3, :3] = Rotation.from_rotvec(velocity[3:] * seconds).as_matrix()
    T[:3, 3] = velocity[:3] * seconds
    return T
