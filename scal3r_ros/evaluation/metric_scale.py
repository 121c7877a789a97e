"""How well every source tells the metre: one sequence, mapped with each, against its truth.

Depth of a sensor and images of a right camera are read where the sequence has them. Wheel odometry
and an inertial unit are made from the true trajectory, with the errors that stand below.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation, RotationSpline
from tqdm import tqdm

from scal3r_ros.data.sequence import open_sequence
from scal3r_ros.data.sequence_folder import SensorSequence
from scal3r_ros.data.tum import Trajectory, read_trajectory
from scal3r_ros.evaluation.ablation import Remembered
from scal3r_ros.evaluation.trajectory import associate, evaluate
from scal3r_ros.geometry.sim3 import invert_pose
from scal3r_ros.mapping.config import MapperConfig
from scal3r_ros.mapping.inertial import GRAVITY, InertialLog
from scal3r_ros.mapping.mapper import Mapper
from scal3r_ros.mapping.pipeline import map_sequence
from scal3r_ros.mapping.prediction import Predictor
from scal3r_ros.mapping.types import Frame, MapUpdate

SEED = 0
OFF = "metre off at the end, %"
GOAL = 3.0  # per cent
WHEEL_NOISE, TURN_NOISE = 0.02, 0.02  # deviations: of a step's length, of its turn; relative
IMU_HZ = 200
GYRO_NOISE, GYRO_BIAS = 0.003, 0.001  # rad/s
FORCE_NOISE, FORCE_BIAS = 0.06, 0.03  # m/s^2


def evaluate_scale(
    folder: Path, predictor: Predictor, config: MapperConfig, camera_height: float = 0.0
) -> dict[str, dict[str, Any]]:
    """By source: after how many images the map was metric, per cent by which its lengths are off
    then and at the end, and ATE with no scale aligned."""
    truth = read_trajectory(folder / "groundtruth.txt")
    remembered, found = Remembered(predictor), {}
    for source in tqdm(_sources(folder, camera_height), desc=folder.name):
        scale = replace(config.scale, source=source, camera_height=camera_height)
        mapper = Mapper(remembered, replace(config, scale=scale))
        sensors = Sensors(folder, source, truth, mapper.metric.sources.imu)
        watch = _Lock(mapper, truth)
        map_sequence(sensors.frames(), mapper, None, watch.look)
        found[source] = watch.result()
    return found


def _sources(folder: Path, camera_height: float) -> list[str]:
    have = {
        "depth": (folder / "depth").is_dir(),
        "stereo": (folder / "right").is_dir(),
        "camera_height": camera_height > 0,
    }
    return ["odometry", "imu", *(source for source, there in have.items() if there)]


@dataclass(eq=False)
class Sensors:
    """The images of a sequence, each with what one source adds to it."""

    folder: Path
    source: str
    truth: Trajectory
    imu: InertialLog

    def frames(self) -> Iterator[Frame]:
        sensed = self.source in ("depth", "stereo")
        sequence = (
            SensorSequence(self.folder, self.source) if sensed else open_sequence(self.folder)
        )
        odometry = wheel_odometry(self.truth, np.random.default_rng(SEED))
        felt = inertial_samples(self.truth, np.random.default_rng(SEED))
        ahead = next(felt, None)
        for frame in sequence:
            while self.source == "imu" and ahead is not None and ahead[0] <= frame.stamp_ns:
                self.imu.add(*ahead)
                ahead = next(felt, None)
            if self.source == "odometry":
                frame = replace(frame, T_odom_cam=odometry.get(frame.stamp_ns))
            yield frame


def wheel_odometry(truth: Trajectory, rng: np.random.Generator) -> Trajectory:
    """Steps of the true camera, each a little too long or short, turned a little too far or not
    far enough: noise, no constant error, for that no source could tell from scale."""
    stamps = sorted(truth)
    T = np.stack([truth[stamp] for stamp in stamps])
    steps = invert_pose(T[:-1]) @ T[1:]
    turns = Rotation.from_matrix(steps[:, :3, :3]).as_rotvec()
    turns *= 1 + rng.normal(0, TURN_NOISE, (len(steps), 1))
    steps[:, :3, :3] = Rotation.from_rotvec(turns).as_matrix()
    steps[:, :3, 3] *= 1 + rng.normal(0, WHEEL_NOISE, (len(steps), 1))
    odometry = {stamps[0]: T[0]}
    for before, stamp, step in zip(stamps[:-1], stamps[1:], steps, strict=True):
        odometry[stamp] = odometry[before] @ step
    return odometry


def inertial_samples(
    truth: Trajectory, rng: np.random.Generator
) -> Iterator[tuple[int, Float[ndarray, " 3"], Float[ndarray, " 3"]]]:
    """Stamp [ns], angular velocity and specific force in camera axes of a camera that moves along
    a smooth curve through all true poses; down is where the camera's y points on the average."""
    stamps = np.array(sorted(truth), dtype=np.int64)
    T = np.stack([truth[int(stamp)] for stamp in stamps])
    seconds = (stamps - stamps[0]) * 1e-9
    places = CubicSpline(seconds, T[:, :3, 3])
    turns = RotationSpline(seconds, Rotation.from_matrix(T[:, :3, :3]))
    down = T[:, :3, 1].mean(axis=0)
    gravity = GRAVITY * down / np.linalg.norm(down)
    gyro_bias, force_bias = rng.normal(0, GYRO_BIAS, 3), rng.normal(0, FORCE_BIAS, 3)
    for t in np.arange(0, seconds[-1], 1 / IMU_HZ):
        R = turns(t)
        gyro = turns(t, 1) + gyro_bias + rng.normal(0, GYRO_NOISE, 3)
        force = R.inv().apply(places(t, 2) - gravity) + force_bias + rng.normal(0, FORCE_NOISE, 3)
        yield int(stamps[0]) + round(t * 1e9), gyro, force


class _Lock:
    """Notes when the map turns metric and how long its metre is then."""

    def __init__(self, mapper: Mapper, truth: Trajectory) -> None:
        self.mapper, self.truth = mapper, truth
        self.images = 0
        self.after: int | None = None
        self.first_error = np.nan

    def look(self, frame: Frame, updates: list[MapUpdate]) -> None:
        self.images = frame.index + 1
        if updates:
            self._note()

    def _note(self) -> None:
        if self.after is None and self.mapper.metric.metric:
            self.after, self.first_error = self.images, self._error()

    def result(self) -> dict[str, Any]:
        self._note()  # the last chunk came after the last image
        found: dict[str, Any] = {"metric after images": self.after}
        if self.after is not None:
            ate = evaluate(self.truth, dict(self.mapper.keyframe_stamped_poses()), "se3").ate_rmse
            found["metre off then, %"] = round(self.first_error, 1)
            found[OFF] = round(self._error(), 1)
            found["ate m, se3"] = round(ate, 3)
        return found

    def _error(self) -> float:
        """Of what the camera moved in a second, in its own axes, along the true motion: over all
        the map's bends would count for scale, and lengths grow by noise."""
        estimate = dict(self.mapper.keyframe_stamped_poses())
        *poses, seconds = associate(self.truth, estimate)
        ends = np.searchsorted(seconds, seconds + 1 - 1e-6)
        starts = np.flatnonzero(ends < len(seconds))
        true, found = ((invert_pose(T[starts]) @ T[ends[starts]])[:, :3, 3] for T in poses)
        return 100 * (float((true * found).sum() / (true * true).sum()) - 1)
