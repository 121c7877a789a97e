"""The tracker's benchmark on a rendered walk with exact depth."""

import cv2
import numpy as np
import pytest

from scal3r_ros.data.sequence import SequenceError
from scal3r_ros.data.tum import write_trajectory
from scal3r_ros.evaluation.tracking import track_with_depth
from scal3r_ros.tracking.types import TrackerConfig

AT_ONCE, LATE, OPENCV = (
    "tracker, keyframes at once",
    "tracker, keyframes late",
    "OpenCV RGB-D odometry",
)


@pytest.fixture(scope="module")
def folder(walk, tmp_path_factory):
    path = tmp_path_factory.mktemp("walk")
    (path / "images").mkdir()
    (path / "depth").mkdir()
    for frame, depth in zip(walk.frames, walk.clip.depth.numpy(), strict=True):
        name = f"{frame.index:06d}.png"
        cv2.imwrite(str(path / "images" / name), frame.image[..., ::-1])
        millimetres = np.clip(1000 * depth, 0, 65535).astype(np.uint16)
        cv2.imwrite(str(path / "depth" / name), millimetres)
    K = walk.frames[0].K
    (path / "times.txt").write_text("".join(f"{f.stamp_ns * 1e-9:.9f}\n" for f in walk.frames))
    (path / "camera.yaml").write_text(
        f"width: 154\nheight: 112\nfx: {K[0, 0]}\nfy: {K[1, 1]}\n"
        f"cx: {K[0, 2] - 0.5}\ncy: {K[1, 2] - 0.5}\n"
    )
    truth = zip((f.stamp_ns for f in walk.frames), walk.T_world_cam, strict=True)
    write_trajectory(path / "groundtruth.txt", dict(truth))
    return path


def test_drift_and_doubt_are_small_and_the_one_beside_it_works(folder):
    found = track_with_depth(folder, TrackerConfig())
    ours, late, theirs = (found[name] for name in (AT_ONCE, LATE, OPENCV))
    assert found["images with depth"] == found["images"] == 60
    assert ours["tracked"] == 59  # all but the first, whose keyframe comes after it
    assert ours["median m/s"] < 0.03 and ours["median deg/s"] < 0.5
    assert theirs["median m/s"] < 0.02  # slow, clean and small is what dense odometry is best at
    assert late["ATE m"] < 0.1
    honest = ours["normalised error"]
    assert 0.2 < honest["tracking, translation"] < 2 and 0.2 < honest["tracking, rotation"] < 2


def test_a_sequence_without_depth_is_refused(folder, tmp_path):
    for name in ("images", "times.txt", "camera.yaml", "groundtruth.txt"):
        (tmp_path / name).symlink_to(folder / name)
    with pytest.raises(SequenceError, match="holds no depth of the images"):
        track_with_depth(tmp_path, TrackerConfig())
