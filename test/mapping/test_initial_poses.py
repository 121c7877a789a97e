"""Where cameras are placed before bundle adjustment: rough depth, false matches, no parallax."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from scal3r_ros.geometry.sim3 import invert_pose
from scal3r_ros.mapping.feature_tracks import FeatureTracks
from scal3r_ros.mapping.initial_poses import (
    DEPTH_SIGMA,
    Observations,
    place_all,
    robust_misfit,
    triangulate,
)
from scal3r_ros.mapping.two_view import pose_between

FOCAL, FRAMES, POINTS = 300.0, 8, 400


def turned(degrees: float) -> np.ndarray:
    return Rotation.from_euler("y", degrees, degrees=True).as_matrix()


def sideways(step: float = 0.6) -> np.ndarray:
    """Cameras that go to the right and look a little to the left, T_world_cam."""
    T = np.tile(np.eye(4), (FRAMES, 1, 1))
    T[:, 0, 3] = step * np.arange(FRAMES)
    T[:, :3, :3] = [turned(-2.0 * k) for k in range(FRAMES)]
    return T


def seen(T: np.ndarray, xyz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Normalised coordinates and depth, frames by points."""
    y = np.einsum("fji,fpj->fpi", T[:, :3, :3], xyz - T[:, None, :3, 3])
    return y[..., :2] / y[..., 2:], y[..., 2]


def observed(T: np.ndarray, rng: np.random.Generator, depth_error: float) -> Observations:
    """Points 2 to 8 m away, each followed through four frames; the depth of every frame is wrong
    in its own smooth way, as a network's is."""
    xyz = rng.uniform([-3, -2, 2], [5, 2, 8], (POINTS, 3))
    xy, z = seen(T, xyz)
    first = rng.integers(0, FRAMES - 3, POINTS)
    frame = (first[:, None] + np.arange(4)).reshape(-1)
    track = np.repeat(np.arange(POINTS), 4)
    noisy = xy[frame, track] + rng.normal(0, 0.3 / FOCAL, (len(frame), 2))
    bent = np.exp(depth_error * np.sin(2 * xy[..., 0] + 1.7 * np.arange(FRAMES)[:, None]))
    tracks = FeatureTracks(frame, track, FOCAL * noisy, POINTS, (240, 320))
    depth = (z * bent)[frame, track]
    sigma = np.full(len(frame), DEPTH_SIGMA)
    return Observations(tracks, noisy, np.full((FRAMES, 2), FOCAL), depth, sigma)


def nowhere() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Poses, which are placed, and a motion, of somebody who knows the first camera only."""
    placed = np.arange(FRAMES) == 0
    return np.tile(np.eye(4), (FRAMES, 1, 1)), placed, np.tile(np.eye(4), (FRAMES - 1, 1, 1))


def directions_off(T: np.ndarray, truth: np.ndarray) -> float:
    """Largest angle [deg] by which a camera's way or its turn is wrong."""
    steps, true = (invert_pose(P[:-1]) @ P[1:] for P in (T, truth))
    turn = Rotation.from_matrix(invert_pose(steps)[:, :3, :3] @ true[:, :3, :3]).magnitude()
    a, b = steps[:, :3, 3], true[:, :3, 3]
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return float(np.degrees(max(turn.max(), np.arccos(np.clip(cosine, -1, 1)).max())))


@pytest.mark.parametrize("depth_error", [0.0, 0.3])
def test_cameras_are_placed_however_rough_depth_is(rng, depth_error):
    """By PnP alone such depths bend the way by 17 to 32 degrees."""
    truth = sideways()
    T = place_all(observed(truth, rng, depth_error), *nowhere())
    assert directions_off(T, truth) < 6.0


def test_a_pose_between_two_images_needs_depth_for_its_length_only(rng):
    truth = sideways()
    xy, z = seen(truth, rng.uniform([-3, -2, 2], [5, 2, 8], (POINTS, 3)))
    xy += rng.normal(0, 0.3 / FOCAL, xy.shape)
    rough = z[0] * np.exp(rng.normal(0, 0.3, POINTS))
    T = pose_between(xy[0], xy[2], rough, FOCAL)
    assert T is not None
    off = invert_pose(truth[2]) @ truth[0] @ T
    assert np.degrees(Rotation.from_matrix(off[:3, :3]).magnitude()) < 1.0
    assert np.linalg.norm(off[:3, 3]) < 0.1 * np.linalg.norm(truth[2, :3, 3])


@pytest.mark.parametrize("case", ["turned only", "too few", "depth unknown"])
def test_what_two_images_do_not_say_is_not_said(rng, case):
    truth = sideways(0.0 if case == "turned only" else 0.6)
    xy, z = seen(truth, rng.uniform([-3, -2, 2], [5, 2, 8], (POINTS, 3)))
    some = slice(12 if case == "too few" else None)
    z = np.zeros_like(z) if case == "depth unknown" else z
    assert pose_between(xy[0][some], xy[2][some], z[0][some], FOCAL) is None


def test_points_are_as_sure_as_they_have_parallax(rng):
    """Deviations of the log depth: the prior's where nothing moved, true ones where it did."""
    still, moved = sideways(0.0), sideways()
    everywhere = np.ones(FRAMES, bool)
    _, unsure = triangulate(observed(still, rng, 0.0), still, everywhere)
    np.testing.assert_allclose(unsure, DEPTH_SIGMA, rtol=0.05)
    observations = observed(moved, rng, 0.4)
    depth, sigma = triangulate(observations, moved, everywhere)
    anchor = np.searchsorted(observations.tracks.track, np.arange(POINTS))
    bent = np.abs(np.log(depth / observations.depth[anchor]))
    assert np.median(sigma) < 0.05 < np.median(bent)


def test_false_matches_do_not_choose_the_start():
    """Huber's cost alone prefers the second: what is false is less far off there."""
    true = np.concatenate([np.full(80, 0.5), np.full(20, 80.0)])
    wrong = np.concatenate([np.full(80, 3.0), np.full(20, 40.0)])
    assert robust_misfit(true).mean() < robust_misfit(wrong).mean()
