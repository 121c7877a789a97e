"""What every keyframe looks like as a whole, for exact search among all of them."""

from array import array
from collections.abc import Iterator
from itertools import chain

import numpy as np
from jaxtyping import Float, Float32, Int8, Real
from numpy import ndarray

from scal3r_ros.mapping.shelf import Shelf, Shelved

BLOCK = 256  # keyframes that lie on disk together; one block at a time is read
STEPS = 127  # of the largest number: a cosine of two places moves by a thousandth or so


class Descriptors:
    """A matrix product is enough for 10^5 keyframes; the newest are in memory, the others not.

    A byte a number, for the time of a search is that of reading all of them.
    """

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._full: list[Shelved] = []
        self._open: list[Int8[ndarray, " d"]] = []
        self._inverse = array("d")  # of every keyframe's length; 0: it has no feature
        self._sum: Float[ndarray, " d"] | float = 0.0  # of all as unit vectors

    def __len__(self) -> int:
        return len(self._inverse)

    def append(self, descriptor: Real[ndarray, " d"]) -> None:
        """Of any length: only its direction counts."""
        exact = descriptor.astype(np.float64)
        largest = float(np.abs(exact).max())
        rounded = np.rint(exact * (STEPS / largest if largest > 0 else 0)).astype(np.int8)
        length = float(np.linalg.norm(rounded.astype(np.float64)))
        self._inverse.append(1 / length if length > 0 else 0.0)
        self._sum = self._sum + rounded * self._inverse[-1]
        self._open.append(rounded)
        if len(self._open) == BLOCK:
            self._full.append(self._shelf.put(descriptors=np.stack(self._open)))
            self._open = []

    def forget_from(self, first: int) -> None:
        """Drops the newest."""
        while len(self) > first:
            if not self._open:
                self._open = list(self._full.pop()["descriptors"].copy())
            self._sum = self._sum - self._open.pop() * self._inverse.pop()

    def all(self) -> Int8[ndarray, "n d"]:
        """As they are kept: directions, in steps of 1/127 of their largest number."""
        newest = np.stack(self._open) if self._open else np.zeros((0, 0), np.int8)
        blocks = [block["descriptors"] for block in self._full]
        return np.concatenate([*blocks, newest] if self._open else blocks) if blocks else newest

    def likeness(self, first: int) -> Float32[ndarray, "new all"]:
        """Cosines of the keyframes from the `first` on to all, less what all have in common: that
        says nothing about a place. An image without any feature is like no other."""
        inverse = np.array(self._inverse, np.float32)
        mean = np.asarray(self._sum / len(self), np.float32)
        begin = min(first // BLOCK, len(self._full))
        newest = np.concatenate([block.copy() for block in self._blocks(begin)])
        newest, lengths = newest[first - BLOCK * begin :], inverse[first:, None]
        asked = np.where(lengths > 0, newest * lengths - mean, 0)
        asked /= np.maximum(np.linalg.norm(asked, axis=1, keepdims=True), 1e-9)
        # a product with all as they are, the mean being one more that is asked for
        rows = np.concatenate([asked, mean[None]])
        products = np.concatenate([rows @ block.T for block in self._blocks(0)], axis=1) * inverse
        common = float(mean @ mean)
        apart = np.sqrt(np.maximum(1 - 2 * products[-1] + common, 1e-12))
        cosines = (products[:-1] - (asked @ mean)[:, None]) / apart
        return np.where(inverse > 0, cosines, 0).astype(np.float32)

    def _blocks(self, begin: int) -> Iterator[Float32[ndarray, "n d"]]:
        """One after the other in the same memory: what is to last longer must be copied."""
        room: Float32[ndarray, "n d"] | None = None
        newest = [np.stack(self._open)] if self._open else []
        for block in chain((full["descriptors"] for full in self._full[begin:]), newest):
            if room is None:
                room = np.empty((BLOCK, block.shape[1]), np.float32)
            room[: len(block)] = block
            yield room[: len(block)]
