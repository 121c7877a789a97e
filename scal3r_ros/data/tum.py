"""Trajectories in TUM form: stamp tx ty tz qx qy qz qw, stamps exact to the nanosecond."""

from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.spatial.transform import Rotation

from scal3r_ros.data.folder import stamp_ns
from scal3r_ros.data.sequence import SequenceError

Trajectory = dict[int, Float[ndarray, "4 4"]]  # stamp [ns] -> T_world_cam


def write_trajectory(path: Path, trajectory: Trajectory) -> None:
    lines = ["# timestamp tx ty tz qx qy qz qw"]
    for stamp, T in sorted(trajectory.items()):
        values = [*T[:3, 3], *Rotation.from_matrix(T[:3, :3]).as_quat()]
        numbers = " ".join(f"{v:.9f}" for v in values)
        lines.append(f"{decimal_seconds(stamp)} {numbers}")
    path.write_text("\n".join(lines) + "\n")


def decimal_seconds(stamp_ns: int) -> str:
    """Exact to the nanosecond, which a float is not."""
    seconds, nanoseconds = divmod(abs(stamp_ns), 1_000_000_000)
    return f"{'-' if stamp_ns < 0 else ''}{seconds}.{nanoseconds:09d}"


def read_trajectory(path: Path) -> Trajectory:
    if not path.is_file():
        raise SequenceError(f"{path} does not exist")
    trajectory: Trajectory = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        words = line.replace(",", " ").split()
        try:
            values = [float(word) for word in words[1:8]]
        except ValueError as error:
            raise SequenceError(f"{path} line {number}: {error}") from error
        if len(values) != 7:
            raise SequenceError(f"{path} line {number}: 8 numbers expected, got {len(words)}")
        T = np.eye(4)
        T[:3, 3] = values[:3]
        T[:3, :3] = Rotation.from_quat(values[3:]).as_matrix()
        trajectory[stamp_ns(words[0], f"{path} line {number}")] = T
    if not trajectory:
        raise SequenceError(f"{path} holds no poses")
    return trajectory
