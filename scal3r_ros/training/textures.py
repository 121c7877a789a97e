"""Tiles of pattern for the surfaces of the procedural world."""

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

TILE, TILES = 128, 24  # pixels of a side, tiles in a set


@lru_cache(maxsize=16)
def texture_tiles(seed: int) -> Float[Tensor, "t 128 128"]:
    """Checks, stripes, bricks, marks like text, plain plaster, wood and noise, in 0..1."""
    rng = np.random.default_rng(seed)
    tiles = [_tile(i % 8, rng) for i in range(TILES)]
    return torch.tensor(np.stack(tiles), dtype=torch.float32).clamp(0, 1)


def _tile(kind: int, rng: np.random.Generator) -> Float[ndarray, "128 128"]:
    noise = sum(
        np.kron(rng.random((2**o, 2**o)), np.ones((TILE // 2**o,) * 2)) * 0.7 ** (o - 1)
        for o in range(1 + kind % 3, 8)
    )
    noise = (noise - noise.min()) / np.ptp(noise)
    y, x = np.mgrid[:TILE, :TILE]
    n = 2 ** int(rng.integers(1, 5))
    column, row = x * n // TILE, y * n // TILE
    if kind == 1:
        return 0.6 * ((column + row) % 2) + 0.4 * noise
    if kind == 2:
        return 0.5 * (column % 2) + 0.5 * noise
    if kind == 3:  # bricks
        joint = ((y * n) % TILE < 12) | (((x * n // 2 + (row % 2) * TILE // 2) % TILE) < 8)
        return 0.3 * noise + np.where(joint, 0.7, 0.1)
    if kind == 4:  # marks like text
        marks = np.kron(rng.random((32, 32)) > 0.6, np.ones((4, 4)))
        return 0.2 * noise + 0.8 * (1 - marks * ((y // 8) % 2))
    if kind == 5:
        return 0.15 * noise + 0.4
    if kind == 6:  # wood
        return 0.5 + 0.3 * np.sin((x + 24 * noise) * 2 * np.pi * n / TILE) + 0.2 * noise
    return noise
