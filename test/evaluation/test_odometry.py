"""Odometry judged with the keyframes of a map, in whatever unit that has."""

import json
from dataclasses import replace

import numpy as np
import pytest

from scal3r_ros.evaluation.odometry import evaluate_odometry
from scal3r_ros.evaluation.tracking import normalised_error
from scal3r_ros.mapping.config import KeyframeConfig, MapperConfig
from scal3r_ros.tracking.types import TrackedPose, TrackerConfig
from test.conftest import TruthPredictor


class Shrinking(TruthPredictor):
    """Every chunk is smaller than the one before."""

    def predict(self, chunk, memory, *, write=True):
        prediction, memory = super().predict(chunk, memory, write=write)
        factor = np.float32(0.8**chunk.index)
        T = prediction.T_submap_cam.copy()
        T[:, :3, 3] *= factor
        return replace(prediction, T_submap_cam=T, depth=prediction.depth * factor), memory


@pytest.mark.parametrize("network", [TruthPredictor, Shrinking])
def test_drift_and_honesty_are_told_for_all_delays_together(walk_folder, walk, network):
    config = MapperConfig(keyframes=KeyframeConfig(min_flow=0.005))
    delays, places = [0, 3], {}
    found = evaluate_odometry(
        walk_folder, network(walk.clip), config, TrackerConfig(), delays, places
    )
    assert found["delays"] == delays and found["keyframes"] >= 3
    assert found["least and most"][0] <= found["ate m"] <= found["least and most"][1]
    assert found["ate m"] < 0.1 and found["rpe deg/s"] < 1
    assert found["tracked"] > 80 and found["coasted"] == 0
    honest = found["normalised error"]
    assert 0.2 < honest["tracking, translation"] < 2 and 0.2 < honest["tracking, rotation"] < 2
    json.dumps(found)
    assert set(places) == {"truth", "0 images late", "3 images late"}
    assert np.abs(places["3 images late"] - places["truth"]).max() < 0.3


def test_a_window_finds_the_unit_that_poses_have_there():
    """The way of the poses is half the true one at first, and twice in the end."""
    rng = np.random.default_rng(1)
    truth, poses = {}, {}
    place, ours = np.zeros(3), np.zeros(3)
    for k in range(200):
        step = np.array([0.1, 0, 0]) + rng.normal(0, 0.02, 3)
        unit = 0.5 if k < 100 else 2.0
        place, ours = place + step, ours + unit * step + rng.normal(0, 0.001, 3)
        T, E = np.eye(4), np.eye(4)
        T[:3, 3], E[:3, 3] = place, ours
        stamp = k * 10**8
        truth[stamp] = T
        poses[stamp] = TrackedPose(stamp, E, 0.5e-6 * np.eye(6), "tracking", 100)
    windowed = normalised_error(truth, [poses], 1.0)["tracking, translation"]
    assert normalised_error(truth, [poses])["tracking, translation"] > 40
    assert windowed < 8  # steps around the change are in neither unit
    del poses[100 * 10**8]
    halves = [{s: p for s, p in poses.items() if (s < 10**10) == first} for first in (True, False)]
    assert 0.8 < normalised_error(truth, halves, 1.0)["tracking, translation"] < 1.6


def test_a_blind_pose_is_judged_since_the_last_that_was_seen():
    """Ten images at rest, then ten blind ones that drift by a centimetre each along every axis, and
    say so."""
    truth, poses = {}, {}
    for k in range(20):
        stamp, blind = k * 10**8, max(k - 9, 0)
        truth[stamp], T = np.eye(4), np.eye(4)
        T[:3, 3] = 0.01 * blind
        covariance = np.diag([(0.01 * blind) ** 2] * 3 + [1e-6] * 3) + 1e-9 * np.eye(6)
        poses[stamp] = TrackedPose(stamp, T, covariance, "coasting" if blind else "tracking", 0)
    found = normalised_error(truth, [poses])
    assert abs(found["coasting, translation"] - 1) < 0.01
    assert found["tracking, translation"] == found["coasting, rotation"] == 0
