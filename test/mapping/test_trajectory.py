"""Poses of images between keyframes."""

import numpy as np
import pytest

from scal3r_ros.mapping.trajectory import camera_trajectory


@pytest.mark.parametrize("unit", [1.0, 3.0, 8.0])
def test_images_between_keyframes_follow_whatever_unit_the_map_has_now(unit):
    """A camera that waits, then goes: only its own motion tells where it was in between."""
    x = np.tile([0, 0, 0, 0, 0, 0, 0.2, 0.4, 0.6, 0.8], 3) + np.repeat([0.0, 1.0, 2.0], 10)
    T = np.tile(np.eye(4), (30, 1, 1))
    T[:, 0, 3] = x
    tracked = {i: pose.copy() for i, pose in enumerate(T)}
    for pose in tracked.values():
        pose[:3, 3] /= unit
    found = camera_trajectory({i: T[i] for i in (2, 10, 20)}, tracked, range(30))
    np.testing.assert_allclose([found[i][0, 3] for i in range(30)], x, atol=1e-9)


def test_two_keyframes_that_hardly_moved_say_little_about_the_unit():
    T = np.tile(np.eye(4), (7, 1, 1))
    T[:, 0, 3] = [0, 0.5, 1, 1.001, 1.01, 1.5, 2]
    keyframes = {0: T[0], 2: T[2], 4: T[4].copy(), 6: T[6]}
    keyframes[4][0, 3] = 1.1  # ten times as far as it was
    found = camera_trajectory(keyframes, dict(enumerate(T)), range(7))
    assert found[3][0, 3] == pytest.approx(1.046, abs=0.01)  # the middle, not 1.011 nor 1.091
    np.testing.assert_allclose([found[i][0, 3] for i in (1,)], 0.5, atol=0.01)
