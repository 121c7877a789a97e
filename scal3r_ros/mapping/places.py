"""What every keyframe looks like as a whole, for exact search among all of them."""

from array import array
from collections.abc import Iterator
from itertools import chain

import numpy as np
from jaxtyping import Float, Float32, Int8, Real
from numpy import ndarray

from scal3r_ros.mapping.shelf import Shelf, Shelved

BLOCK = 256  # keyframes that lie on disk together
ROWS = 64  # of them that are searched at a time: in real numbers they are four times as large
STEPS = 127  # of the largest number: a cosine of two places moves by a thousandth or so


class Descriptors:
    """A matrix product is enough for 10^5 keyframes; the newest are in memory, the others not.

    A byte a number, for the time of a search is that of reading all of them. Room for the newest is
    taken once: thousands of small arrays among others would hold the process's memory apart.
    """

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._full: list[Shelved] = []
        self._newest: Int8[ndarray, "n d"] = np.zeros((0, 0), np.int8)  # room for a block
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
        if not len(self):
            self._newest = np.zeros((BLOCK, len(rounded)), np.int8)
        self._newest[len(self) % BLOCK] = rounded
        self._inverse.append(1 / length if length > 0 else 0.0)
        self._sum = self._sum + rounded * self._inverse[-1]
        if len(self) % BLOCK == 0:
            self._full.append(self._shelf.put(descriptors=self._newest))

    def forget_from(self, first: int) -> None:
        """Drops the newest."""
        while len(self) > first:
            if len(self) % BLOCK == 0:
                self._newest[:] = self._full.pop()["descriptors"]
            inverse = self._inverse.pop()
            self._sum = self._sum - self._newest[len(self) % BLOCK] * inverse

    def all(self) -> Int8[ndarray, "n d"]:
        """As they are kept: directions, in steps of 1/127 of their largest number."""
        return self._from(0)

    def likeness(self, first: int) -> Float32[ndarray, "new all"]:
        """Cosines of the keyframes from the `first` on to all, less what all have in common: that
        says nothing about a place. An image without any feature is like no other."""
        inverse = np.array(self._inverse, np.float32)
        mean = np.asarray(self._sum / len(self), np.float32)
        newest, lengths = self._from(first), inverse[first:, None]
        asked = np.where(lengths > 0, newest * lengths - mean, 0)
        asked /= np.maximum(np.linalg.norm(asked, axis=1, keepdims=True), 1e-9)
        # a product with all as they are, the mean being one more that is asked for
        rows = np.concatenate([asked, mean[None]])
        products = np.concatenate([rows @ part.T for part in self._parts()], axis=1) * inverse
        common = float(mean @ mean)
        apart = np.sqrt(np.maximum(1 - 2 * products[-1] + common, 1e-12))
        cosines = (products[:-1] - (asked @ mean)[:, None]) / apart
        return np.where(inverse > 0, cosines, 0).astype(np.float32)

    def _blocks(self, begin: int = 0) -> Iterator[Int8[ndarray, "n d"]]:
        """From a block on; the last one, of the newest, may be empty."""
        full = (block["descriptors"] for block in self._full[begin:])
        return chain(full, [self._newest[: len(self) % BLOCK]])

    def _from(self, first: int) -> Int8[ndarray, "n d"]:
        """A copy of those from the `first` on."""
        begin = first // BLOCK
        blocks = list(self._blocks(begin))
        blocks[0] = blocks[0][first - BLOCK * begin :]
        return np.concatenate(blocks)

    def _parts(self) -> Iterator[Float32[ndarray, "n d"]]:
        """All, a few at a time, in the same memory: what is to last longer must be copied."""
        room = np.empty((ROWS, self._newest.shape[1]), np.float32)
        for block in self._blocks():
            for row in range(0, len(block), ROWS):
                part = block[row : row + ROWS]
                room[: len(part)] = part
                yield room[: len(part)]
