"""Odometry against the depth that the network gives: what a robot has, sequence by sequence.

The map is made first; its keyframes are then given to the tracker after the image that completed
their chunk, at once or some images late. A single run is chance, so there is one for every delay.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from scal3r_ros.data.sequence import open_sequence
from scal3r_ros.data.tum import read_trajectory
from scal3r_ros.evaluation.plots import TRUTH
from scal3r_ros.evaluation.tracking import normalised_error, told, tracked
from scal3r_ros.evaluation.trajectory import aligned_places, evaluate
from scal3r_ros.geometry.keyframe import Keyframe
from scal3r_ros.mapping.config import MapperConfig
from scal3r_ros.mapping.mapper import Mapper
from scal3r_ros.mapping.pipeline import map_sequence
from scal3r_ros.mapping.prediction import Predictor
from scal3r_ros.mapping.types import Frame, MapUpdate
from scal3r_ros.tracking.types import TrackerConfig

DELAYS = (0, 2, 4, 6, 8)  # images
UNIT_S = 2.5  # before and after a step, in which the map's unit is taken for constant


def evaluate_odometry(
    folder: Path,
    predictor: Predictor,
    mapping: MapperConfig,
    config: TrackerConfig,
    delays: Sequence[int] = DELAYS,
    places: dict[str, Float[ndarray, "n 3"]] | None = None,
) -> dict[str, Any]:
    """Means of all delays after Sim(3) alignment, milliseconds, and error over deviation in the
    unit that the map has there. Where the camera was, and was in truth, goes into `places`."""
    truth = read_trajectory(folder / "groundtruth.txt")
    keyframes: list[tuple[int, Keyframe]] = []
    mapper = Mapper(predictor, mapping)

    def take(frame: Frame, updates: list[MapUpdate]) -> None:
        if updates:
            keyframes.append((frame.index, mapper.newest_keyframe()))

    map_sequence(open_sequence(folder), mapper, None, take)
    runs, errors, seconds = [], [], []
    for delay in delays:
        poses, took = tracked(open_sequence(folder), keyframes, config, delay)
        way = {stamp: pose.T_odom_cam for stamp, pose in poses.items()}
        found = evaluate(truth, way)
        if places is not None:
            places[TRUTH], places[f"{delay} images late"] = aligned_places(truth, way)
        runs.append(poses)
        errors.append(found)
        seconds += took
    ates = [found.ate_rmse for found in errors]
    return {
        "keyframes": len(keyframes),
        "delays": list(delays),
        "ate m": round(float(np.mean(ates)), 3),
        "least and most": [round(min(ates), 3), round(max(ates), 3)],
        "rpe m/s": round(float(np.mean([found.rpe_translation for found in errors])), 3),
        "rpe deg/s": round(float(np.mean([found.rpe_rotation_deg for found in errors])), 2),
        **told(runs, seconds),
        "normalised error": normalised_error(truth, runs, UNIT_S),
    }
