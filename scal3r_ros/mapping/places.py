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
        mean = np.asarray(self._sum / len(self), np.float32)
        begin = min(first // BLOCK, len(self._full))
        newest = np.concatenate(list(self._blocks(begin)))[first - BLOCK * begin :]
        asked = np.where(newest.any(axis=1, keepdims=True), newest - mean, 0)
        asked /= np.maximum(np.linalg.norm(asked, axis=1, keepdims=True), 1e-9)
        return np.concatenate([_cosines(asked, block, mean) for block in self._blocks(0)], axis=1)

    def _blocks(self, begin: int) -> Iterator[Float32[ndarray, "n d"]]:
        for block in self._full[begin:]:
            yield block["descriptors"].astype(np.float32)
        if self._open:
            yield np.stack(self._open).astype(np.float32)


def _cosines(
    asked: Float32[ndarray, "m d"], block: Float32[ndarray, "n d"], mean: Float32[ndarray, " d"]
) -> Float32[ndarray, "m n"]:
    """Of unit vectors to all of a block less the mean, without making them: this is done for every
    keyframe there is. An image without any feature is like no other."""
    squared = np.einsum("nd,nd->n", block, block)
    apart = squared - 2 * (block @ mean) + mean @ mean
    inverse = np.where(squared > 0, 1 / np.sqrt(np.maximum(apart, 1e-12)), 0)
    return (asked @ block.T - (asked @ mean)[:, None]) * inverse
