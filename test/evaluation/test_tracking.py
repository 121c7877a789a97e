"""The tracker's benchmark on a rendered walk with exact depth."""

import numpy as np
import pytest

from scal3r_ros.data.sequence import SequenceError
from scal3r_ros.evaluation.tracking import track_with_depth
from scal3r_ros.tracking.types import TrackerConfig

AT_ONCE, LATE, OPENCV = (
    "tracker, keyframes at once",
    "tracker, keyframes late",
    "OpenCV RGB-D odometry",
)


def test_drift_and_doubt_are_small_and_the_one_beside_it_works(walk_folder):
    found = track_with_depth(walk_folder, TrackerConfig())
    ours, late, theirs = (found[name] for name in (AT_ONCE, LATE, OPENCV))
    assert found["images with depth"] == found["images"] == 60
    assert ours["tracked"] == 59  # all but the first, whose keyframe comes after it
    assert ours["median m/s"] < 0.03 and ours["median deg/s"] < 0.5
    assert theirs["median m/s"] < 0.02  # slow, clean and small is what dense odometry is best at
    assert late["ATE m"] < 0.1
    honest = ours["normalised error"]
    assert 0.2 < honest["tracking, translation"] < 2 and 0.2 < honest["tracking, rotation"] < 2


def test_images_of_another_size_and_another_shape_are_tracked_as_well(walk_folder):
    """154 x 112 pixels made 200 x 200; depth is that of the sensor."""
    places = {}
    found = track_with_depth(walk_folder, TrackerConfig(), (200, 200), places)
    assert found[AT_ONCE]["median m/s"] < 0.03 and found[AT_ONCE]["median deg/s"] < 0.5
    assert set(places) == {"truth", "keyframes at once", "keyframes late", "OpenCV RGB-D"}
    apart = np.linalg.norm(places["keyframes late"] - places["truth"], axis=1)
    assert apart.max() < 0.3


def test_a_sequence_without_depth_is_refused(walk_folder, tmp_path):
    for name in ("images", "times.txt", "camera.yaml", "groundtruth.txt"):
        (tmp_path / name).symlink_to(walk_folder / name)
    with pytest.raises(SequenceError, match="holds no depth of the images"):
        track_with_depth(tmp_path, TrackerConfig())
