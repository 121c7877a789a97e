"""How unsure the tracker says a pose is, beside how wrong it is."""

from dataclasses import replace

import numpy as np
from scipy.spatial.transform import Rotation

from scal3r_ros.geometry.sim3 import invert_pose
from scal3r_ros.tracking.camera_pose import covariance_in_odom, piled_up, solve_pose
from scal3r_ros.tracking.tracker import Tracker
from scal3r_ros.tracking.types import TrackerConfig
from test.tracking.test_tracker import keyframe


def test_the_longer_ago_a_keyframe_told_lengths_the_more_a_step_is_doubted(walk):
    """What odometry triangulates inherits its doubt; a new keyframe takes it away."""
    tracker, deviations = Tracker(TrackerConfig()), []
    for frame in walk.frames[:50]:
        if frame.index in (1, 45):
            tracker.set_keyframe(keyframe(walk, frame.index - 1))
        pose = tracker.track(frame.image, frame.K, frame.stamp_ns)
        if pose is not None:
            deviations.append(np.sqrt(np.trace(pose.covariance[:3, :3])))
    soon, late, told = deviations[1], deviations[43], deviations[45]
    assert late > 1.5 * soon
    assert told < 0.75 * late


def test_the_covariance_is_that_of_corners_whose_errors_go_with_their_neighbours():
    """Ninety corners in threes that err alike: error over deviation is 1.7 if each counts."""
    rng = np.random.default_rng(4)
    errors = []
    for _ in range(60):
        xyz = np.repeat(rng.uniform((-2, -1.5, 3), (2, 1.5, 8), (30, 3)), 3, axis=0)
        xyz += rng.normal(0, 0.02, xyz.shape)
        slips = np.repeat(rng.normal(0, 0.6 / 400, (30, 2)), 3, axis=0)
        xy = xyz[:, :2] / xyz[:, 2:] + slips
        found = solve_pose(xyz, np.zeros_like(xyz), xy, 400.0, np.eye(4))
        assert found is not None
        C = covariance_in_odom(found, found.T_odom_cam, np.zeros(2))
        turn = Rotation.from_matrix(found.T_odom_cam[:3, :3]).as_rotvec()
        error = np.concatenate([found.T_odom_cam[:3, 3], turn])
        errors.append(error @ np.linalg.solve(C, error) / 6)
    assert 0.8 < np.sqrt(np.mean(errors)) < 1.25


def test_deviations_add_where_errors_go_the_same_way():
    rng = np.random.default_rng(0)
    J = rng.normal(size=(6, 6))
    one = J @ J.T
    np.testing.assert_allclose(piled_up(4 * one, one), 9 * one)  # 2 and 1 deviations are 3
    other = piled_up(one, np.diag(rng.uniform(1, 5, 6)))
    assert np.linalg.eigvalsh(other).min() > 0


def test_a_step_whose_length_is_in_doubt_leaves_turns_in_doubt_as_far_as_it_went_sideways(walk):
    """Depths from such a way are not off alike, and bend a step to the side into a turn."""
    tracker = Tracker(TrackerConfig())
    for frame in walk.frames[:20]:
        before = tracker.track(frame.image, frame.K, frame.stamp_ns)
        if frame.index == 0:
            tracker.set_keyframe(keyframe(walk, 0))
    variances = []
    for doubt in (0.0, 0.5):
        other, frame = tracker.clone(), walk.frames[20]
        other._points = replace(other._points, doubt=np.full(len(other._points), doubt))
        pose = other.track(frame.image, frame.K, frame.stamp_ns)
        variances.append(np.diag(pose.covariance))
    step = -(invert_pose(pose.T_odom_cam) @ before.T_odom_cam)[:3, 3]
    turned = 0.5 * np.linalg.norm(step[:2]) / other._median_depth
    assert turned > 1e-4
    floor = TrackerConfig().floor_rotation_rad
    added = np.full(3, (turned + floor) ** 2 - floor**2)
    np.testing.assert_allclose((variances[1] - variances[0])[3:], added, rtol=0.02)
