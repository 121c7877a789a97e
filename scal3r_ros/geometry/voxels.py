"""One point per voxel, and how many are near."""

import itertools

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray


def voxel_keys(xyz: Float[ndarray, "n 3"], size: float) -> Int[ndarray, " n"]:
    """One integer per point, equal for points of one voxel; 21 bits an axis."""
    cells = np.floor(np.asarray(xyz, dtype=np.float64) / size).astype(np.int64)
    cells = np.clip(cells + (1 << 20), 0, (1 << 21) - 1)
    return (cells[:, 0] << 42) | (cells[:, 1] << 21) | cells[:, 2]


def strongest_per_voxel(
    xyz: Float[ndarray, "n 3"], size: float, strength: Float[ndarray, " n"]
) -> Int[ndarray, " m"]:
    """Indices of the strongest point of each voxel, in their original order."""
    order = np.argsort(-strength, kind="stable")
    _, first = np.unique(voxel_keys(xyz[order], size), return_index=True)
    return np.sort(order[first])


def crowd(xyz: Float[ndarray, "n 3"], size: float) -> Int[ndarray, " n"]:
    """How many points lie in the 27 voxels of and around each point's own."""
    keys, own, counts = np.unique(voxel_keys(xyz, size), return_inverse=True, return_counts=True)
    total = np.zeros(len(keys), np.int64)
    for dx, dy, dz in itertools.product((-1, 0, 1), repeat=3):
        wanted = keys + (dx << 42) + (dy << 21) + dz
        found = np.searchsorted(keys, wanted).clip(0, len(keys) - 1)
        total += np.where(keys[found] == wanted, counts[found], 0)
    return total[own]
