"""Old parts of the map lie on disk: what is seldom needed takes no memory."""

import os
import shutil
import tempfile
import weakref
from contextlib import suppress
from itertools import count
from pathlib import Path

import numpy as np
from numpy import ndarray

from scal3r_ros.mapping.process import return_holes

SETTLED = 256  # times that something went to disk: then what it left free is worth returning


class Shelf:
    """Files of a temporary folder. Each goes with the last that refers to it, then the folder."""

    def __init__(self, parent: str = "") -> None:
        """Raises OSError where the folder cannot be made."""
        self.path = Path(tempfile.mkdtemp(prefix="scal3r_", dir=parent or None))
        self.numbers = count()
        self.names: dict[tuple[str, ...], tuple[str, ...]] = {}  # each kept once
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)

    def put(self, **arrays: ndarray) -> "Shelved":
        """Raises OSError where the disk is full."""
        shelved = Shelved(self, arrays)
        if shelved._number % SETTLED == 0:
            return_holes()
        return shelved


class Shelved:
    """Arrays that are read where they lie: only the parts that are used come into memory."""

    __slots__ = ("_names", "_number", "_shelf")  # there is one of every keyframe

    def __init__(self, shelf: Shelf, arrays: dict[str, ndarray]) -> None:
        self._shelf, self._number = shelf, next(shelf.numbers)
        self._names = shelf.names.setdefault(tuple(arrays), tuple(arrays))
        for name, array in arrays.items():
            try:
                np.save(self._path(name), array, allow_pickle=False)
            except OSError as error:  # NumPy does not say where
                raise OSError(f"{self._path(name)} cannot be written: {error}") from error

    def __getitem__(self, name: str) -> ndarray:
        return np.load(self._path(name), mmap_mode="r", allow_pickle=False)

    def __del__(self) -> None:
        for name in self._names:
            with suppress(FileNotFoundError):
                os.unlink(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._shelf.path}/{self._number:08d}.{name}.npy"  # a Path interns its parts
