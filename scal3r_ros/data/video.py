"""Video files."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from scal3r_ros.data.sequence import RawImage, SequenceError


class VideoFile:
    """Stamps count from zero at the file's frame rate."""

    camera = None

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)
        video = cv2.VideoCapture(self.name)
        self.rate = video.get(cv2.CAP_PROP_FPS)
        self._length = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
        readable = video.isOpened() and video.read()[0]
        video.release()
        if not readable:
            raise SequenceError(f"{path} cannot be read as a video")
        if not self.rate > 0:
            raise SequenceError(f"{path} has no frame rate")

    def __len__(self) -> int:
        return self._length

    def images(self) -> Iterator[RawImage]:
        video = cv2.VideoCapture(self.name)
        try:
            index = 0
            while True:
                found, pixels = video.read()
                if not found:
                    return
                stamp_ns = round(index * 1_000_000_000 / self.rate)
                yield RawImage(stamp_ns, np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)))
                index += 1
        finally:
            video.release()
