"""Videos whose frames are not evenly spaced, and damaged ones."""

import cv2
import numpy as np
import pytest

from scal3r_ros.data import video
from scal3r_ros.data.sequence import open_sequence


class Capture:
    """As OpenCV reads a file of variable rate."""

    told_ms = (0.0, 100.0, 600.0, 600.0, 1700.0)  # one does not increase

    def __init__(self, path: str) -> None:
        self.file, self.at = OPEN(path), -1

    def read(self):
        self.at += 1
        return self.file.read()

    def get(self, what: int) -> float:
        return self.told_ms[self.at] if what == cv2.CAP_PROP_POS_MSEC else self.file.get(what)

    def __getattr__(self, name: str):
        return getattr(self.file, name)


OPEN = cv2.VideoCapture


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "v.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    for i in range(5):
        writer.write(np.random.default_rng(i).integers(0, 255, (48, 64, 3), np.uint8))
    writer.release()
    return path


def test_stamps_are_the_files_own_where_they_increase(path, monkeypatch):
    monkeypatch.setattr(video.cv2, "VideoCapture", Capture)
    stamps_ns = [frame.stamp_ns for frame in open_sequence(path)]
    assert stamps_ns == [0, 100_000_000, 600_000_000, 700_000_000, 1_700_000_000]


def test_a_video_that_ends_too_early_is_told_of(path, caplog):
    assert len(list(open_sequence(path))) == 5
    assert not caplog.messages
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert len(list(open_sequence(path))) == 2
    assert caplog.messages == [f"{path}: only 2 of its 5 images can be read, is it damaged?"]
