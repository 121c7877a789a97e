"""Our numbers are evo's numbers, on the same files."""

import numpy as np
import pytest
from evo.core import metrics, sync
from evo.tools import file_interface
from scipy.spatial.transform import Rotation

from scal3r_ros.data.tum import read_trajectory, write_trajectory
from scal3r_ros.evaluation.depth import evaluate_depth
from scal3r_ros.evaluation.trajectory import evaluate
from test.conftest import OFFICE, random_sim3


@pytest.fixture
def estimate(tmp_path, rng):
    """The example's truth, moved by a similarity, with noise."""
    truth = read_trajectory(OFFICE / "groundtruth.txt")
    T = random_sim3(rng)
    moved = {}
    for stamp, pose in truth.items():
        noisy = T.apply_pose(pose)
        noisy[:3, 3] += rng.normal(0, 0.05, 3)
        noisy[:3, :3] = noisy[:3, :3] @ Rotation.from_rotvec(rng.normal(0, 0.02, 3)).as_matrix()
        moved[stamp] = noisy
    write_trajectory(tmp_path / "estimate.txt", moved)
    return tmp_path / "estimate.txt"


@pytest.mark.parametrize("alignment", ["sim3", "se3", "none"])
def test_ate_is_evos(estimate, alignment):
    ours = evaluate(
        read_trajectory(OFFICE / "groundtruth.txt"), read_trajectory(estimate), alignment
    )
    truth = file_interface.read_tum_trajectory_file(str(OFFICE / "groundtruth.txt"))
    other = file_interface.read_tum_trajectory_file(str(estimate))
    truth, other = sync.associate_trajectories(truth, other)
    if alignment != "none":
        other.align(truth, correct_scale=alignment == "sim3")
    ape = metrics.APE(metrics.PoseRelation.translation_part)
    ape.process_data((truth, other))
    statistics = ape.get_all_statistics()
    assert ours.matched == truth.num_poses
    assert ours.ate_rmse == pytest.approx(statistics["rmse"], rel=1e-6)
    assert ours.ate_max == pytest.approx(statistics["max"], rel=1e-6)
    assert ours.path_length == pytest.approx(truth.path_length, rel=1e-6)


def test_stamps_are_written_to_the_nanosecond(tmp_path):
    poses = {1_403_636_579_763_555_073 + i: np.eye(4) for i in range(3)}
    write_trajectory(tmp_path / "t.txt", poses)
    assert list(read_trajectory(tmp_path / "t.txt")) == list(poses)


def test_depth_errors_by_hand():
    errors = evaluate_depth(np.array([1.0, 2, 4, 0]), np.array([2.0, 4, 4, 9]))
    # ratios 0.5 0.5 1: one scale of 0.5; the third pixel is then half of the truth
    assert errors.scale == 0.5
    assert errors.pixels == 3
    assert errors.abs_rel == pytest.approx(0.5 / 3)
    assert errors.delta_1 == pytest.approx(2 / 3)
