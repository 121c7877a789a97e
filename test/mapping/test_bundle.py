"""Bundle adjustment against dense linear algebra and known scenes."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from scal3r_ros.geometry.sim3 import invert_pose
from scal3r_ros.mapping.bundle import _moved, _solve, adjust, residuals, typical_pace
from scal3r_ros.mapping.bundle_problem import BundleProblem, BundleState
from scal3r_ros.mapping.config import RefinementConfig

CONFIG = RefinementConfig()
FRAMES, POINTS = 5, 60


@pytest.fixture
def scene(rng) -> tuple[BundleProblem, BundleState]:
    """A camera that moves sideways before points 2 to 6 units away, and the truth."""
    T = np.tile(np.eye(4), (FRAMES, 1, 1))
    T[:, 0, 3] = 0.2 * np.arange(FRAMES)
    T[:, :3, :3] = Rotation.from_rotvec(rng.normal(0, 0.05, (FRAMES, 3))).as_matrix()
    T = invert_pose(T[2]) @ T
    anchor = rng.integers(0, FRAMES - 1, POINTS)
    ray = np.concatenate([rng.uniform(-0.5, 0.5, (POINTS, 2)), np.ones((POINTS, 1))], 1)
    log_depth = np.log(rng.uniform(2, 6, POINTS))
    world = np.einsum("nij,nj->ni", T[anchor][:, :3, :3], ray * np.exp(log_depth)[:, None])
    world += T[anchor][:, :3, 3]
    track, frame = np.nonzero(np.arange(FRAMES)[None] != anchor[:, None])
    offset = world[track] - T[frame][:, :3, 3]
    y = np.einsum("nji,nj->ni", T[frame][:, :3, :3], offset)
    problem = BundleProblem(
        frame=frame,
        track=track,
        xy=y[:, :2] / y[:, 2:],
        focal=np.full((FRAMES, 2), 300.0),
        anchor=anchor,
        ray=ray,
        log_depth_prior=log_depth,
        depth_sigma=np.full(POINTS, 0.3),
        motion_prior=invert_pose(T[:-1]) @ T[1:],
        motion_sigma=np.full((FRAMES - 1, 6), 0.5),
        interval=np.ones(FRAMES - 1),
        reference=2,
    )
    return problem, BundleState(T, log_depth)


def disturbed(state: BundleState, rng: np.random.Generator) -> BundleState:
    poses = rng.normal(0, 0.01, (FRAMES, 6))
    poses[2] = 0
    return _moved(state, poses, rng.normal(0, 0.1, POINTS))


def test_the_truth_is_found_again(scene, rng):
    problem, truth = scene
    start = disturbed(truth, rng)
    assert np.abs(residuals(problem, start)).max() > 3
    found, _ = adjust(problem, start, CONFIG, 20)
    assert np.abs(residuals(problem, found)).max() < 0.05
    np.testing.assert_allclose(found.T_submap_cam, truth.T_submap_cam, atol=2e-3)


def test_a_step_solves_the_normal_equations(scene, rng):
    """The step by Schur complement and blocks against least squares on the whole Jacobian, by
    finite differences. Priors are switched off by their deviations, weights by a wide Huber."""
    problem, truth = scene
    huge = 1e9
    problem = replace(
        problem,
        depth_sigma=np.full(POINTS, huge),
        motion_sigma=np.full((FRAMES - 1, 6), huge),
    )
    config = replace(CONFIG, huber_px=huge, prior_leap=huge)
    state = disturbed(truth, rng)
    damping = 1e-3
    step, step_depth = _solve(problem, state, config, damping, typical_pace(problem, state))

    def shifted(k: int, size: float) -> np.ndarray:
        pose, depth = np.zeros(6 * FRAMES), np.zeros(POINTS)
        (pose if k < len(pose) else depth)[k % len(pose) if k < len(pose) else k - len(pose)] = size
        return residuals(problem, _moved(state, pose.reshape(FRAMES, 6), depth)).reshape(-1)

    free = [k for k in range(6 * FRAMES + POINTS) if k // 6 != problem.reference or k >= 6 * FRAMES]
    J = np.stack([(shifted(k, 1e-6) - shifted(k, -1e-6)) / 2e-6 for k in free], axis=1)
    H, g = J.T @ J, J.T @ residuals(problem, state).reshape(-1)
    expected = -np.linalg.solve(H + damping * np.diag(np.diag(H)), g)
    poses = np.delete(step.reshape(-1), np.arange(6) + 6 * problem.reference)
    np.testing.assert_allclose(np.concatenate([poses, step_depth]), expected, rtol=1e-3, atol=1e-6)


def test_the_reference_stays(scene, rng):
    problem, truth = scene
    found, _ = adjust(problem, disturbed(truth, rng), CONFIG, 5)
    np.testing.assert_array_equal(found.T_submap_cam[2], truth.T_submap_cam[2])
