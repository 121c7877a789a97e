"""Video files."""

import logging
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from scal3r_ros.data.sequence import RawImage, SequenceError

logger = logging.getLogger(__name__)


class VideoFile:
    """Stamps are the file's own, which need not be evenly spaced; where they do not increase, the
    frame rate's."""

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
        period_ns = round(1_000_000_000 / self.rate)
        count, stamp_ns = 0, -period_ns
        try:
            while True:
                found, pixels = video.read()
                if not found:
                    break
                told_ns = round(video.get(cv2.CAP_PROP_POS_MSEC) * 1_000_000)
                stamp_ns = told_ns if told_ns > max(stamp_ns, -1) else stamp_ns + period_ns
                yield RawImage(stamp_ns, np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)))
                count += 1
        finally:
            video.release()
        # some formats know no count, only how long they are: then it is the rate's guess
        missing_ns = self._length * period_ns - (stamp_ns + period_ns)
        if count < self._length and missing_ns > 1.5 * period_ns:
            told = "%s: only %d of its %d images can be read, is it damaged?"
            logger.warning(told, self.name, count, self._length)
