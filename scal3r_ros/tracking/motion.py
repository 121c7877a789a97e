"""Velocities, steps, and places in another unit of length."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.spatial.transform import Rotation

from scal3r_ros.geometry.sim3 import invert_pose

# R_begin_end of the camera between two stamps [ns], by a gyroscope; None where it does not know
Turn = Callable[[int, int], Float[ndarray, "3 3"] | None]
MAX_LOG_SCALE = 1.0  # of a change that is believed to be one


def rigid(T: Float[ndarray, "4 4"]) -> Float[ndarray, "4 4"]:
    """The same pose, its rotation rid of what rounding made of it."""
    T = T.copy()
    T[:3, :3] = Rotation.from_matrix(T[:3, :3]).as_matrix()
    return T


def stretched(
    T: Float[ndarray, "*batch 4 4"], centre: Float[ndarray, " 3"], factor: float
) -> Float[ndarray, "*batch 4 4"]:
    """Poses whose places move away from `centre` by a factor."""
    T = T.copy()
    T[..., :3, 3] = centre + factor * (T[..., :3, 3] - centre)
    return T


def velocity_of(
    T_a: Float[ndarray, "4 4"], T_b: Float[ndarray, "4 4"], seconds: float
) -> Float[ndarray, " 6"]:
    """(translation, rotation vector) a second, in the axes of the first."""
    T = invert_pose(T_a) @ T_b
    return np.concatenate([T[:3, 3], Rotation.from_matrix(T[:3, :3]).as_rotvec()]) / seconds


def step_of(velocity: Float[ndarray, " 6"], seconds: float) -> Float[ndarray, "4 4"]:
    T = np.eye(4)
    T[:3, :3] = Rotation.from_rotvec(velocity[3:] * seconds).as_matrix()
    T[:3, 3] = velocity[:3] * seconds
    return T


def carried_on(
    T: Float[ndarray, "4 4"],
    velocity: Float[ndarray, " 6"],
    seconds: float,
    decay_s: float,
    turn: Float[ndarray, "3 3"] | None,
) -> Float[ndarray, "4 4"]:
    """A pose some time later, blind: the velocity fades to rest; a gyroscope knows the turn."""
    step = step_of(velocity, decay_s * (1 - float(np.exp(-seconds / decay_s))))
    if turn is not None:
        step[:3, :3] = turn
    return T @ step


def met_halfway(log_jump: float | None, share: float) -> tuple[float, float]:
    """Factors by which what was tracked before and a new keyframe's depth come to one unit, the
    share of the way from ours to theirs; `log_jump` is our depth over theirs."""
    jump = 0.0 if log_jump is None else float(np.clip(log_jump, -MAX_LOG_SCALE, MAX_LOG_SCALE))
    return float(np.exp(-share * jump)), float(np.exp((1 - share) * jump))
