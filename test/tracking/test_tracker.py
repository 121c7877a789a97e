"""The tracker against the world's truth: late keyframes, darkness, silence."""

from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from scal3r_ros.evaluation.trajectory import evaluate
from scal3r_ros.geometry.camera import intrinsics
from scal3r_ros.geometry.keyframe import Keyframe
from scal3r_ros.tracking.camera_pose import solve_pose, solve_rotation
from scal3r_ros.tracking.points import Points
from scal3r_ros.tracking.tracker import Tracker
from scal3r_ros.tracking.types import TrackerConfig
from test.conftest import OFFICE, World


def keyframe(walk: World, index: int) -> Keyframe:
    frame = walk.frames[index]
    depth = walk.clip.depth[index].numpy()
    T = walk.T_world_cam[index]
    return Keyframe(index, frame.stamp_ns, frame.image, depth, frame.K, T)


def run(walk: World, delay: int, every: int = 8) -> dict[int, object]:
    tracker, poses = Tracker(TrackerConfig()), {}
    for frame in walk.frames:
        late = frame.index - delay
        if late >= 0 and late % every == 0:
            tracker.set_keyframe(keyframe(walk, late))
        pose = tracker.track(frame.image, frame.K, frame.stamp_ns)
        if pose is not None:
            poses[frame.stamp_ns] = pose
    return poses


@pytest.mark.parametrize("delay", [1, 10])
def test_keyframes_that_arrive_late_still_give_the_present_pose(walk, delay):
    poses = run(walk, delay)
    assert len(poses) == len(walk.frames) - delay
    truth = {f.stamp_ns: T for f, T in zip(walk.frames, walk.T_world_cam, strict=True)}
    estimate = {s: p.T_odom_cam for s, p in poses.items()}
    errors = evaluate(truth, estimate, "se3")
    assert errors.ate_share < 0.03
    assert errors.rpe_rotation_deg < 1.0
    assert all(p.state == "tracking" for p in poses.values())


def test_odometry_never_jumps_when_a_keyframe_comes(walk):
    """Also when the map has changed its mind about where the camera is and how large things are."""
    tracker, steps = Tracker(TrackerConfig()), []
    last = None
    for frame in walk.frames[:40]:
        if frame.index in (1, 20):
            kept, moved = keyframe(walk, frame.index - 1), frame.index == 20
            T = kept.T_map_cam.copy()
            T[:3, 3] += 5.0 if moved else 0.0
            depth = kept.depth * np.float32(1.3 if moved else 1.0)
            tracker.set_keyframe(replace(kept, depth=depth, T_map_cam=T))
        pose = tracker.track(frame.image, frame.K, frame.stamp_ns)
        if pose is not None and last is not None:
            steps.append(np.linalg.norm(pose.T_odom_cam[:3, 3] - last[:3, 3]))
        last = pose.T_odom_cam if pose is not None else None
    assert max(steps) < 4 * np.median(steps)
    true = np.linalg.norm(np.diff(walk.T_world_cam[1:40, :3, 3], axis=0), axis=1)
    before, after = (np.median(np.divide(steps, true)[part]) for part in (slice(18), slice(19, 30)))
    assert abs(np.log(before)) < 0.05
    told = tracker.config.scale_bleed * np.log(1.3)  # all that is seen has come to that unit
    assert abs(np.log(after) - told) < 0.05


def test_rotations_stay_rotations_while_copies_take_over(walk):
    """With every image a copy takes a keyframe over and goes on from the same pose. Poses of float
    precision stay as good as they are; once each copy trebled what rounding had made of them."""
    tracker = Tracker(TrackerConfig())
    for before, frame in pairwise(walk.frames[:20]):
        tracker.track(before.image, before.K, before.stamp_ns)
        copy = tracker.clone()
        copy.set_keyframe(keyframe(walk, before.index))
        copy.continue_from(tracker)
        tracker = copy
        pose = copy.clone().track(frame.image, frame.K, frame.stamp_ns)
        R = pose.T_odom_cam[:3, :3]
        np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-6)


def test_in_the_dark_it_coasts_says_so_and_doubts_more_and_more(walk):
    tracker = Tracker(TrackerConfig())
    tracker.track(walk.frames[0].image, walk.frames[0].K, walk.frames[0].stamp_ns)
    tracker.set_keyframe(keyframe(walk, 0))
    for frame in walk.frames[1:6]:
        seen = tracker.track(frame.image, frame.K, frame.stamp_ns)
    dark = [tracker.track(np.zeros_like(f.image), f.K, f.stamp_ns) for f in walk.frames[6:12]]
    assert seen.state == "tracking"
    assert {p.state for p in dark} == {"coasting"}
    doubt = [np.trace(p.covariance) for p in (seen, *dark)]
    assert np.all(np.diff(doubt) > 0)
    assert np.linalg.norm(dark[-1].T_odom_cam[:3, 3] - seen.T_odom_cam[:3, 3]) < 0.5
    again = tracker.track(walk.frames[12].image, walk.frames[12].K, walk.frames[12].stamp_ns)
    assert again.stamp_ns == walk.frames[12].stamp_ns


def test_a_turn_away_from_all_known_points_is_still_measured():
    """A camera turns to the right on the spot; the keyframe has depth on the left only."""
    photograph = cv2.cvtColor(cv2.imread(str(OFFICE / "images" / "000120.jpg")), cv2.COLOR_BGR2RGB)
    height, width = photograph.shape[:2]
    K = intrinsics(0.9 * width, 0.9 * width, width / 2, height / 2)
    shift = intrinsics(1.0, 1.0, -0.5, -0.5)  # to cv2's pixels
    depth = np.zeros((height, width), np.float32)
    depth[:, : width // 4] = 3.0
    tracker, poses = Tracker(TrackerConfig()), []
    angles = np.radians(2.5 * np.arange(12))
    for i, angle in enumerate(angles):
        R = Rotation.from_rotvec([0, angle, 0]).as_matrix()  # R_first_now
        H = shift @ K @ R.T @ np.linalg.inv(shift @ K)
        image = np.asarray(cv2.warpPerspective(photograph, H, (width, height)))
        pose = tracker.track(image, K, 10**9 + i * 10**8)
        if i == 0:
            tracker.set_keyframe(Keyframe(0, 10**9, image, depth, K, np.eye(4)))
        else:
            poses.append(pose)
    assert poses[0].state == "tracking"
    assert poses[-1].state == "coasting"  # lengths are no longer known
    turned = [Rotation.from_matrix(p.T_odom_cam[:3, :3]).as_rotvec()[1] for p in poses]
    np.testing.assert_allclose(turned, angles[1:], atol=np.radians(1.5))
    assert max(np.linalg.norm(p.T_odom_cam[:3, 3]) for p in poses) < 0.15


def test_nothing_before_the_first_keyframe_and_stamps_must_increase(walk):
    tracker, frame = Tracker(TrackerConfig()), walk.frames[0]
    assert tracker.track(frame.image, frame.K, frame.stamp_ns) is None
    with pytest.raises(ValueError, match="stamps must increase"):
        tracker.track(frame.image, frame.K, frame.stamp_ns)


def test_the_very_same_image_has_the_very_same_pose(walk):
    tracker = Tracker(TrackerConfig())
    for index in range(3):
        frame = walk.frames[index]
        pose = tracker.track(frame.image, frame.K, frame.stamp_ns)
        if index == 0:
            tracker.set_keyframe(keyframe(walk, 0))
    again = tracker.track(frame.image, frame.K, frame.stamp_ns + 1)
    assert (again.state, again.stamp_ns) == ("tracking", frame.stamp_ns + 1)
    np.testing.assert_array_equal(again.T_odom_cam, pose.T_odom_cam)


def test_corners_at_others_are_left_out():
    own, others = (
        Points.born(np.array(uv, float), np.eye(4)) for uv in ([[0, 0], [9, 0]], [[0, 3]])
    )
    np.testing.assert_array_equal(own.apart_from(others, 5.0).uv, [[9, 0]])
    assert len(own.apart_from(others, 2.0)) == len(own.apart_from(Points.none(), 5.0)) == 2


def test_pose_from_points_with_a_third_wrong(rng):
    T = np.eye(4)
    T[:3, 3] = [0.3, -0.1, 0.2]
    xyz = rng.uniform([-2, -2, 3], [2, 2, 8], (200, 3))
    cam = xyz - T[:3, 3]
    xy = cam[:, :2] / cam[:, 2:] + rng.normal(0, 0.2 / 400, (200, 2))
    xy[:66] += rng.normal(0, 0.1, (66, 2))
    found = solve_pose(xyz, np.zeros_like(xyz), xy, 400.0, np.eye(4))
    assert np.linalg.norm(found.T_odom_cam[:3, 3] - T[:3, 3]) < 0.01
    assert found.inliers[66:].mean() > 0.95


def test_depths_that_are_unsure_still_tell_turn_and_direction(rng):
    """Of 150 points the depth is off by a half, in the mean, and said to be; 20 are known."""
    T = np.eye(4)
    T[:3, :3] = Rotation.from_rotvec([0.02, 0.1, -0.03]).as_matrix()
    T[:3, 3] = [0.4, -0.1, 0.2]
    xyz = rng.uniform([-2, -2, 3], [2, 2, 8], (170, 3))
    cam = (xyz - T[:3, 3]) @ T[:3, :3]
    xy = cam[:, :2] / cam[:, 2:] + rng.normal(0, 0.2 / 400, (170, 2))
    sigma = np.where(np.arange(170) < 150, 0.5, 0.02)
    taken = xyz * np.exp(rng.normal(0, 1, 170) * sigma)[:, None]  # born in the origin

    def off(spread: np.ndarray) -> tuple[float, float]:
        found = solve_pose(taken, spread, xy, 400.0, np.eye(4))
        R = T[:3, :3].T @ found.T_odom_cam[:3, :3]
        way = np.linalg.norm(found.T_odom_cam[:3, 3] - T[:3, 3]) / np.linalg.norm(T[:3, 3])
        return np.degrees(np.linalg.norm(Rotation.from_matrix(R).as_rotvec())), way

    turn, way = off(sigma[:, None] * taken)
    believed = off(np.zeros((170, 3)))
    assert turn < 0.6 and way < 0.12
    assert believed[0] > 2 and believed[1] > 0.5


@pytest.mark.parametrize(
    ("turn_deg", "step"), [(0.3, (0, 0, 1)), (4, (0.1, 0, 0.8)), (-2, (1, 0, 0))]
)
def test_eight_known_points_of_two_hundred_tell_step_and_turn_over_a_road(rng, turn_deg, step):
    """The others are taken to be at the usual depth, and a fifth of them are false matches."""
    K = intrinsics(300.0, 300.0, 320.0, 240.0)
    z, known = rng.uniform(4, 40, 200), np.arange(200) < 8
    road = rng.random(200) < 0.6
    x = np.where(road, rng.uniform(-3, 3, 200), rng.choice([-8.0, 8.0], 200))
    xyz = np.stack([x, np.where(road, 1.6, rng.uniform(-6, 1.6, 200)), z], axis=1)
    T = np.eye(4)
    T[:3, :3] = Rotation.from_rotvec(np.deg2rad([0.3 * turn_deg, turn_deg, 0.0])).as_matrix()
    T[:3, 3] = step
    cam = (xyz - T[:3, 3]) @ T[:3, :3]
    now = cam[:, :2] / cam[:, 2:] + rng.normal(0, 0.2 / 300, (200, 2))
    wrong = (rng.random(200) < 0.2) & ~known
    now[wrong] += rng.uniform(-0.1, 0.1, (int(wrong.sum()), 2))
    born = Points.born(xyz[:, :2] / xyz[:, 2:] * 300 + [320, 240], np.eye(4))
    told = np.where(known[:, None], xyz, np.nan)
    points = replace(born, xyz_odom=told, sigma=np.where(known, 0.02, 0.0))
    points = points.assumed(np.eye(4), float(np.median(z)), K)
    guess = np.eye(4)
    guess[:3, 3] = 0.5 * T[:3, 3]  # it moved before
    found = solve_pose(points.xyz_odom, points.spread, now, 300.0, guess)
    turn = found.T_odom_cam[:3, :3].T @ T[:3, :3]
    assert np.degrees(np.linalg.norm(Rotation.from_matrix(turn).as_rotvec())) < 0.2
    assert np.linalg.norm(found.T_odom_cam[:3, 3] - T[:3, 3]) < 0.1 * np.linalg.norm(step)
    assert found.inliers[~wrong].mean() > 0.8


def test_a_likely_pose_counts_where_little_is_seen_and_not_where_much_is(rng):
    """A wall seen through a small window: a step and a turn look alike. And a leap, well seen."""
    xyz = np.concatenate([rng.uniform(-0.3, 0.3, (60, 2)), rng.uniform(3, 3.02, (60, 1))], axis=1)
    sigma = np.array([0.01] * 3 + [0.002] * 3)
    T = np.eye(4)
    T[0, 3] = 0.05  # 5 deviations from the guess, as the next is 50
    seen = {}
    for name, points, T_now in (
        ("window", xyz, np.eye(4)),
        ("leap", xyz * [5, 5, 1] + rng.normal(0, 0.5, xyz.shape), T * [[1, 1, 1, 10]]),
    ):
        cam = points - T_now[:3, 3]
        xy = cam[:, :2] / cam[:, 2:] + rng.normal(0, 0.5 / 400, (60, 2))
        for prior in (None, sigma):
            found = solve_pose(points, np.zeros_like(points), xy, 400.0, np.eye(4), prior)
            seen[name, prior is None] = np.linalg.norm(found.T_odom_cam[:3, 3] - T_now[:3, 3])
    assert seen["window", False] < 0.5 * seen["window", True]
    assert seen["leap", False] < 0.02


def test_every_image_makes_depths_surer_and_they_say_how_sure(rng):
    """Depths off by a tenth, seen from ten places along a metre with 1.5 pixels of noise."""
    K = intrinsics(300.0, 300.0, 160.0, 120.0)
    xyz = rng.uniform([-1.5, -1, 3], [1.5, 1, 6], (400, 3))
    pixels = xyz[:, :2] / xyz[:, 2:] * 300 + [160, 120]
    off = np.exp(rng.normal(0, 0.1, 400))
    points = replace(
        Points.born(pixels, np.eye(4)), xyz_odom=xyz * off[:, None], sigma=np.full(400, 0.1)
    )
    for way in np.linspace(0.1, 1.0, 10):
        T = np.eye(4)
        T[0, 3] = way
        seen = (xyz - T[:3, 3])[:, :2] / xyz[:, 2:] * 300 + [160, 120]
        points = replace(points, uv=seen + rng.normal(0, 1.5, seen.shape)).corrected(T, K)
    error = np.log(points.xyz_odom[:, 2] / xyz[:, 2])
    assert np.median(np.abs(error)) < 0.25 * np.median(np.abs(np.log(off)))
    assert 0.5 < np.sqrt(np.mean((error / points.sigma) ** 2)) < 1.3  # none says below 2 %
    np.testing.assert_allclose(
        points.xyz_odom[:, :2] / points.xyz_odom[:, 2:], xyz[:, :2] / xyz[:, 2:]
    )


def test_rotation_from_rays(rng):
    a = rng.normal(0, 1, (50, 3)) + [0, 0, 4]
    angle = 0.2
    R = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    found, inliers = solve_rotation(a, a @ R, 400.0)
    np.testing.assert_allclose(found, R, atol=1e-6)
    assert inliers.all()


@pytest.mark.parametrize("factor", [0.4, 3.0])
def test_a_map_that_changes_its_unit_changes_the_steps_and_not_the_place(walk, factor):
    """From the keyframe on which brings the new unit, and for good, whatever its size."""
    change, tracker, poses = 30, Tracker(TrackerConfig()), []
    for frame in walk.frames:
        if frame.index >= 1 and (frame.index - 1) % 8 == 0:
            unit = factor if frame.index > change else 1.0
            made = keyframe(walk, frame.index - 1)
            T = made.T_map_cam.copy()
            T[:3, 3] *= unit
            tracker.set_keyframe(
                replace(made, depth=made.depth * np.float32(unit), T_map_cam=T, unit=unit)
            )
        pose = tracker.track(frame.image, frame.K, frame.stamp_ns)
        poses.append(None if pose is None else pose.T_odom_cam[:3, 3])
    truth = walk.T_world_cam[:, :3, 3]
    usual = np.linalg.norm(np.diff(truth, axis=0), axis=1).max()
    steps = np.linalg.norm(np.diff(np.array(poses[1:]), axis=0), axis=1)
    assert steps[: change - 1].max() < 1.5 * usual
    assert steps[change - 1 :].max() < 1.5 * usual * max(factor, 1)
    after = np.array(poses[change + 4 :])
    ratio = np.linalg.norm(after[-1] - after[0]) / np.linalg.norm(truth[-1] - truth[change + 4])
    assert abs(ratio / factor - 1) < 0.05


def test_a_gyroscope_carries_a_turn_that_images_cannot_follow():
    """Half a second of darkness in which the camera turns by 30 degrees, then it sees again what
    the keyframe showed: with the turn known it finds the points at once."""
    photograph = cv2.cvtColor(cv2.imread(str(OFFICE / "images" / "000120.jpg")), cv2.COLOR_BGR2RGB)
    height, width = photograph.shape[:2]
    K = intrinsics(0.6 * width, 0.6 * width, width / 2, height / 2)
    shift = intrinsics(1.0, 1.0, -0.5, -0.5)  # to cv2's pixels
    depth = np.full((height, width), 3.0, np.float32)
    angles = np.radians([0, 0, 0, 6, 12, 18, 24, 30, 30])

    def run(turn) -> list[float]:
        tracker, turned = Tracker(TrackerConfig(), turn), []
        for i, angle in enumerate(angles):
            R = Rotation.from_rotvec([0, angle, 0]).as_matrix()  # R_first_now
            H = shift @ K @ R.T @ np.linalg.inv(shift @ K)
            image = np.asarray(cv2.warpPerspective(photograph, H, (width, height)))
            image = np.zeros_like(image) if 3 <= i < 7 else image
            pose = tracker.track(image, K, 10**9 + i * 10**8)
            if i == 0:
                tracker.set_keyframe(Keyframe(0, 10**9, image, depth, K, np.eye(4)))
            else:
                turned.append(Rotation.from_matrix(pose.T_odom_cam[:3, :3]).as_rotvec()[1])
        return turned

    def gyroscope(begin_ns: int, end_ns: int) -> np.ndarray:
        begin, end = np.interp([begin_ns, end_ns], 10**9 + np.arange(9) * 10**8, angles)
        return Rotation.from_rotvec([0, end - begin, 0]).as_matrix()

    blind, known = run(None), run(gyroscope)
    assert abs(np.degrees(blind[5])) < 1.0  # the velocity was none
    np.testing.assert_allclose(known, angles[1:], atol=np.radians(0.5))
    assert np.degrees(abs(known[-1] - angles[-1])) < np.degrees(abs(blind[-1] - angles[-1]))


def test_two_stamps_close_together_are_no_leap(walk):
    """Stamps of arrival: every sixth image comes a millisecond after the one before."""
    stamps = [frame.stamp_ns for frame in walk.frames]
    for i in range(5, len(stamps), 6):
        stamps[i] = stamps[i - 1] + 1_000_000
    tracker = Tracker(TrackerConfig())
    for frame, stamp_ns, truth in zip(walk.frames, stamps, walk.T_world_cam, strict=True):
        pose = tracker.track(frame.image, frame.K, stamp_ns)
        if frame.index % 8 == 0:
            tracker.set_keyframe(replace(keyframe(walk, frame.index), stamp_ns=stamp_ns))
        if pose is not None:
            assert np.linalg.norm(pose.T_odom_cam[:3, 3] - truth[:3, 3]) < 0.15
