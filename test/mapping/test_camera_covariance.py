"""The covariance that `pose` carries, against samples."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from scal3r_ros.geometry.sim3 import Sim3
from scal3r_ros.mapping.camera_covariance import camera_covariance
from scal3r_ros.mapping.config import MapperConfig
from scal3r_ros.mapping.mapper import Mapper
from scal3r_ros.mapping.pipeline import map_sequence
from scal3r_ros.mapping.types import Submap
from test.conftest import TruthPredictor, random_sim3


@pytest.fixture
def submap(walk, rng) -> Submap:
    mapper = Mapper(TruthPredictor(walk.clip), MapperConfig())
    map_sequence(walk.frames[:24], mapper, None)
    moved = mapper.submaps[-1].T_submap_cam.copy()
    moved[-1, :3, 3] = [0.8, -0.3, 1.5]  # far from the submap's origin
    return replace(
        mapper.submaps[-1], T_map_submap=random_sim3(rng), T_submap_cam=moved, far_end=None
    )


def test_the_graphs_doubt_moves_a_camera_by_its_arm(submap, rng):
    root = 0.004 * rng.normal(size=(7, 7))
    samples = []
    T_submap_cam = submap.T_submap_cam[-1]
    true = submap.T_map_submap.apply_pose(T_submap_cam)
    for tangent in rng.normal(size=(4000, 7)) @ root.T:
        T = (submap.T_map_submap @ Sim3.exp(tangent)).apply_pose(T_submap_cam)
        turn = Rotation.from_matrix(T[:3, :3] @ true[:3, :3].T).as_rotvec()
        samples.append(np.concatenate([T[:3, 3] - true[:3, 3], turn]))
    expected = np.cov(np.stack(samples).T)
    found = camera_covariance(submap, root @ root.T)
    scale = np.sqrt(np.diag(expected))
    assert np.abs((found - expected) / np.outer(scale, scale)).max() < 0.1


def test_a_submap_is_unsure_of_its_far_end(submap):
    doubted = replace(submap, far_end=np.array([0.01, 0.02, 0.03, 0.1, 0.2, 0.3, 0.05]))
    found = camera_covariance(doubted, np.zeros((7, 7)))
    R, s = submap.T_map_submap.R, submap.T_map_submap.s
    way = s**2 * R @ np.diag([0.01, 0.04, 0.09]) @ R.T
    R_cam = R @ submap.T_submap_cam[-1, :3, :3]
    turn = R_cam @ np.diag([1e-4, 4e-4, 9e-4]) @ R_cam.T
    np.testing.assert_allclose(found[:3, :3], way, atol=1e-12)
    np.testing.assert_allclose(found[3:, 3:], turn, atol=1e-12)
