"""What every keyframe looks like as a whole, for exact search among all of them."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Float16, Float32
from numpy import ndarray

from scal3r_ros.mapping.shelf import Shelf, Shelved

BLOCK = 256  # keyframes that lie on disk together; one block at a time is read


class Descriptors:
    """A matrix product is enough for 10^5 keyframes; the newest are in memory, the others not."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._full: list[Shelved] = []
        self._open: list[Float16[ndarray, " d"]] = []
        self._sum: Float[ndarray, " d"] | float = 0.0

    def __len__(self) -> int:
        return BLOCK * len(self._full) + len(self._open)

    def append(self, descriptor: Float[ndarray, " d"]) -> None:
        half = descriptor.astype(np.float16)
        self._sum = self._sum + half.astype(np.float64)
        self._open.append(half)
        if len(self._open) == BLOCK:
            self._full.append(self._shelf.put(descriptors=np.stack(self._open)))
            self._open = []

    def forget_from(self, first: int) -> None:
        """Drops the newest."""
        while len(self) > first:
            if not self._open:
                self._open = list(self._full.pop()["descriptors"].copy())
            self._sum = self._sum - self._open.pop().astype(np.float64)

    def all(self) -> Float16[ndarray, "n d"]:
        """As they were taken in."""
        newest = np.stack(self._open) if self._open else np.zeros((0, 0), np.float16)
        blocks = [block["descriptors"] for block in self._full]
        return np.concatenate([*blocks, newest] if self._open else blocks) if blocks else newest

    def likeness(self, first: int) -> Float32[ndarray, "new all"]:
        """Cosines of the keyframes from the `first` on to all, less what all have in common: that
        says nothing about a place."""
        begin = max(0, min(first // BLOCK, len(self._full)))
        newest = np.concatenate(list(self._blocks(begin)))[first - BLOCK * begin :]
        return np.concatenate([newest @ block.T for block in self._blocks(0)], axis=1)

    def _blocks(self, begin: int) -> Iterator[Float32[ndarray, "n d"]]:
        mean = np.asarray(self._sum / len(self), np.float32)
        for block in self._full[begin:]:
            yield _centred(block["descriptors"], mean)
        if self._open:
            yield _centred(np.stack(self._open), mean)


def _centred(
    block: Float16[ndarray, "n d"], mean: Float32[ndarray, " d"]
) -> Float32[ndarray, "n d"]:
    """An image without any feature is like no other."""
    centred = np.where(block.any(axis=1, keepdims=True), block.astype(np.float32) - mean, 0)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9)
