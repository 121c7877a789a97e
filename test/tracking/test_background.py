"""Keyframes that are taken over beside the images, by a copy of the tracker in its own process."""

import os
import signal
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np

from scal3r_ros.evaluation.trajectory import evaluate
from scal3r_ros.tracking.background import BackgroundTracker
from scal3r_ros.tracking.types import TrackedPose, TrackerConfig
from test.conftest import World
from test.tracking.test_tracker import keyframe


def in_real_time(tracker: BackgroundTracker, walk: World, each=lambda index: None) -> dict:
    """The first keyframe is waited for: the process starts."""
    poses = {}
    for frame in walk.frames:
        if frame.index >= 4 and frame.index % 8 == 4:
            tracker.set_keyframe(keyframe(walk, frame.index - 4))
        if frame.index == 4:
            tracker._thread.join()
        pose = tracker.track(frame.image, frame.K, frame.stamp_ns)
        if pose is not None:
            poses[frame.stamp_ns] = pose.T_odom_cam
        each(frame.index)
        time.sleep(0.03)
    return poses


def children() -> list[int]:
    found = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return [int(child) for child in found.split()]


def test_a_keyframe_whose_process_dies_is_given_up_and_the_next_one_is_taken_over(walk):
    def kill_once(index: int) -> None:
        if index == 31:  # the keyframe of image 24 has been taken over, that of 32 is yet to come
            tracker.set_keyframe(keyframe(walk, 28))
            killed.update(set(children()) - before)
            for child in killed:
                os.kill(child, signal.SIGKILL)

    before, killed = set(children()), set()
    with closing(BackgroundTracker(TrackerConfig())) as tracker:
        poses = in_real_time(tracker, walk, kill_once)
        assert tracker.given_up == 1
        assert len(set(children()) - before - killed) == 1
    assert set(children()) == before
    assert len(poses) > 50
    truth = {f.stamp_ns: T for f, T in zip(walk.frames, walk.T_world_cam, strict=True)}
    assert evaluate(truth, poses, "se3").ate_share < 0.05


def see(tracker: BackgroundTracker, walk: World, index: int) -> TrackedPose | None:
    frame = walk.frames[index]
    return tracker.track(frame.image, frame.K, frame.stamp_ns)


def test_a_reset_drops_the_keyframe_that_is_being_taken_over(walk):
    with closing(BackgroundTracker(TrackerConfig())) as tracker:
        see(tracker, walk, 0)
        tracker.set_keyframe(keyframe(walk, 0))
        tracker.reset()
        tracker._thread.join()
        assert [see(tracker, walk, index) for index in range(1, 4)] == [None, None, None]
        tracker.set_keyframe(keyframe(walk, 3))
        tracker._thread.join()
        assert see(tracker, walk, 4) is not None


def test_a_keyframe_that_was_taken_over_without_an_image_since_is_not_lost_to_the_next(walk):
    """Images in bursts: the first is over before its keyframe is taken over."""
    with closing(BackgroundTracker(TrackerConfig())) as tracker:
        assert [see(tracker, walk, index) for index in range(4)] == [None] * 4
        tracker.set_keyframe(keyframe(walk, 0))
        tracker._thread.join()
        tracker.set_keyframe(keyframe(walk, 3))  # no image can have met its copy yet
        poses = [see(tracker, walk, index) for index in range(4, 8)]
    assert [pose and pose.state for pose in poses] == ["tracking"] * 4
    truth = {f.stamp_ns: T for f, T in zip(walk.frames, walk.T_world_cam, strict=True)}
    assert evaluate(truth, {p.stamp_ns: p.T_odom_cam for p in poses}, "se3").ate_share < 0.05


def test_a_copy_in_its_own_process_asks_for_the_gyroscope(walk):
    asked = set()

    def turn(begin_ns: int, end_ns: int) -> None:
        asked.add(threading.current_thread().name)

    with closing(BackgroundTracker(TrackerConfig(), turn)) as tracker:
        poses = in_real_time(tracker, walk)
    assert "keyframe" in asked
    assert len(poses) > 50


def test_in_the_background_no_image_waits_for_a_keyframe_and_nothing_jumps(walk):
    """In real time, as a node does it: the same path as the tracker that waits."""
    with closing(BackgroundTracker(TrackerConfig())) as tracker:
        poses = in_real_time(tracker, walk)
    assert tracker.given_up == 0
    assert len(poses) > 50
    truth = {f.stamp_ns: T for f, T in zip(walk.frames, walk.T_world_cam, strict=True)}
    assert evaluate(truth, poses, "se3").ate_share < 0.03
    steps = np.linalg.norm(np.diff([T[:3, 3] for T in poses.values()], axis=0), axis=1)
    true = np.linalg.norm(np.diff(walk.T_world_cam[:, :3, 3], axis=0), axis=1)
    assert steps.max() < 2 * true.max()
