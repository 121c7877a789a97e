"""Keyframes that loops may lead to: a few dozen bytes each in memory, their images on disk."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from scal3r_ros.mapping.shelf import Shelf, Shelved
from scal3r_ros.mapping.types import Frame

JPEG_QUALITY = 92
NO_PIXELS = np.zeros((0, 0, 3), np.uint8)
COLUMNS = 4  # of what is known of a keyframe: index, stamp [ns], submap, row of its K


@dataclass(frozen=True, eq=False, slots=True)
class KeptKeyframe:
    """What verification needs of a keyframe: its compressed image."""

    frame: Frame  # without pixels
    jpeg: UInt8[ndarray, " bytes"]
    submap: int  # the submap that brought it

    def restore(self) -> Frame:
        pixels = cv2.imdecode(self.jpeg, cv2.IMREAD_COLOR)
        image = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
        return Frame(self.frame.index, self.frame.stamp_ns, image, self.frame.K)


class KeptKeyframes(Sequence[KeptKeyframe]):
    """In the order in which they were mapped; only the newest are ever dropped."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._numbers = array("q")
        self._images: list[Shelved] = []
        self._K: list[Float[ndarray, "3 3"] | None] = []  # a new one where it changes

    def append(self, frame: Frame, submap: int) -> None:
        pixels = cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR)
        _, jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        self.take(KeptKeyframe(frame, jpeg.reshape(-1), submap))

    def take(self, keyframe: KeptKeyframe) -> None:
        """One whose image is compressed already."""
        frame = keyframe.frame
        if not self._K or not _same(self._K[-1], frame.K):
            self._K.append(frame.K)
        self._numbers.extend((frame.index, frame.stamp_ns, keyframe.submap, len(self._K) - 1))
        self._images.append(self._shelf.put(jpeg=keyframe.jpeg))

    def forget_from(self, first: int) -> None:
        """Drops the newest."""
        del self._numbers[COLUMNS * first :]
        del self._images[first:]

    @property
    def submaps(self) -> list[int]:
        """Of every keyframe, the submap that brought it."""
        return self._numbers[2::COLUMNS].tolist()

    def __len__(self) -> int:
        return len(self._images)

    @overload
    def __getitem__(self, index: int) -> KeptKeyframe: ...
    @overload
    def __getitem__(self, index: slice) -> list[KeptKeyframe]: ...
    def __getitem__(self, index: int | slice) -> KeptKeyframe | list[KeptKeyframe]:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        k = range(len(self))[index]  # negative ones count from the end
        number, stamp_ns, submap, row = self._numbers[COLUMNS * k : COLUMNS * (k + 1)]
        frame = Frame(number, stamp_ns, NO_PIXELS, self._K[row])
        return KeptKeyframe(frame, np.array(self._images[k]["jpeg"]), submap)


def _same(a: Float[ndarray, "3 3"] | None, b: Float[ndarray, "3 3"] | None) -> bool:
    return a is b or (a is not None and b is not None and np.array_equal(a, b))
