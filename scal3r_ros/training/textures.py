"""Tiles of pattern for the surfaces of the procedural world."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor
from torch.nn import functional

TILE, TILES = 128, 48  # pixels of a side, tiles in a set
LEVELS = 8  # sizes: 128 to 1
SETS = 16  # of tiles that a world can have
CELLS = 60  # of a tile with pebbles or leaves
PHOTOGRAPHS = 12  # tiles of a set that photographs replace, where there are some
SUFFIXES = (".jpg", ".jpeg", ".png")
Grey = Float[ndarray, "128 128"]
y, x = np.mgrid[:TILE, :TILE]


@dataclass(frozen=True, eq=False)
class Tiles:
    """A set of tiles and its ever smaller copies (mipmaps), all in one row of texels."""

    texels: Float[Tensor, "n 3"]
    first: Int[Tensor, " levels"]  # texel of every size, the largest first

    def to(self, device: torch.device) -> "Tiles":
        return Tiles(self.texels.to(device), self.first.to(device))


def plain_tiles() -> Tiles:
    """One tone half way between the two, whichever tile is asked for."""
    first = np.cumsum([0, *(TILES * (TILE >> k) ** 2 for k in range(LEVELS))])
    texel = torch.full((1, 3), 0.5)
    return Tiles(texel.expand(int(first[-1]), 3), torch.tensor(first[:-1]))


@lru_cache(maxsize=SETS)
def texture_tiles(seed: int, photographs: Path | None = None) -> Tiles:
    """The same for the same seed."""
    largest = tile_images(seed, photographs)
    copies = [largest]
    for _ in range(LEVELS - 1):
        halved = functional.avg_pool2d(copies[-1].permute(0, 3, 1, 2), 2)
        copies.append(halved.permute(0, 2, 3, 1))
    rows = [copy.reshape(-1, 3) for copy in copies]
    first = np.cumsum([0, *(len(row) for row in rows[:-1])])
    return Tiles(torch.cat(rows), torch.tensor(first))


def photographs_in(folder: Path) -> list[Path]:
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(f"no photograph ({', '.join(SUFFIXES)}) in {folder}")
    return files


def tile_images(seed: int, photographs: Path | None = None) -> Float[Tensor, "t 128 128 3"]:
    """How much of either tone of a surface is seen, 0..1; of photographs colour by colour."""
    rng = np.random.default_rng(seed)
    makers = list(PATTERNS.values())
    tiles = [np.repeat(makers[i % len(makers)](rng)[..., None], 3, -1) for i in range(TILES)]
    if photographs is not None:
        files = photographs_in(photographs)
        for slot in rng.choice(TILES, PHOTOGRAPHS, replace=False):
            tiles[slot] = _photograph(files[int(rng.integers(len(files)))], rng)
    return torch.tensor(np.stack(tiles), dtype=torch.float32).clamp(0, 1)


def tile_of(pattern: str, rng: np.random.Generator) -> int:
    """Number of one of the tiles with a pattern."""
    kinds = list(PATTERNS)
    return kinds.index(pattern) + len(kinds) * int(rng.integers(TILES // len(kinds)))


def _photograph(file: Path, rng: np.random.Generator) -> Float[ndarray, "128 128 3"]:
    """A square of it, mirrored to repeat without a seam, spread over all tones."""
    image = cv2.imread(str(file))
    if image is None:
        raise ValueError(f"cannot read the photograph {file}")
    side = int(min(image.shape[:2]) * rng.uniform(0.3, 1))
    top, left = (int(rng.integers(size - side + 1)) for size in image.shape[:2])
    part = image[top : top + side, left : left + side, ::-1]
    half = cv2.resize(part, (TILE // 2, TILE // 2), interpolation=cv2.INTER_AREA) / 255.0
    half = (half - half.min()) / max(float(np.ptp(half)), 1e-3)
    wide = np.concatenate([half, half[:, ::-1]], axis=1)
    return np.concatenate([wide, wide[::-1]])


def _noise(rng: np.random.Generator, coarsest: int = 1) -> Grey:
    """Values on ever finer grids; it repeats without a seam."""
    total = np.zeros((TILE, TILE))
    for octave in range(coarsest, 8):
        cells = rng.random((2**octave, 2**octave))
        total += 0.7**octave * np.kron(cells, np.ones((TILE // 2**octave,) * 2))
    return (total - total.min()) / np.ptp(total)


def _count(rng: np.random.Generator) -> int:
    """Of repetitions across a tile."""
    return 2 ** int(rng.integers(1, 5))


def _checks(rng: np.random.Generator) -> Grey:
    n = _count(rng)
    return 0.6 * ((x * n // TILE + y * n // TILE) % 2) + 0.4 * _noise(rng, 2)


def _stripes(rng: np.random.Generator) -> Grey:
    return 0.5 * (x * _count(rng) // TILE % 2) + 0.5 * _noise(rng, 2)


def _bricks(rng: np.random.Generator) -> Grey:
    n = _count(rng)
    row = y * n // TILE
    joint = ((y * n) % TILE < 12) | ((x * n // 2 + row % 2 * TILE // 2) % TILE < 8)
    return 0.3 * _noise(rng) + np.where(joint, 0.7, 0.1)


def _text(rng: np.random.Generator) -> Grey:
    """Lines of marks, some words short, some lines missing."""
    marks = np.kron(rng.random((32, 64)) > 0.45, np.ones((4, 2)))
    lines = (y // 4 % 3 < 2) & np.repeat(rng.random(32) > 0.15, 4)[:, None]
    words = np.kron(rng.random((32, 16)) > 0.2, np.ones((4, 8)))
    return 0.15 * _noise(rng) + 0.85 * (1 - marks * lines * words)


def _plaster(rng: np.random.Generator) -> Grey:
    return 0.25 * _noise(rng, 4) + 0.4


def _wood(rng: np.random.Generator) -> Grey:
    rings = np.sin((x + 24 * _noise(rng)) * 2 * np.pi * _count(rng) / TILE)
    return 0.5 + 0.3 * rings + 0.2 * _noise(rng, 5)


def _planks(rng: np.random.Generator) -> Grey:
    n = 2 ** int(rng.integers(2, 4))
    plank = x * n // TILE
    tone = rng.random(n)[plank]
    gap = (x * n % TILE < 6) | ((y + (37 * plank)) % TILE < 2)
    return np.where(gap, 0.0, 0.3 + 0.4 * tone + 0.3 * _noise(rng, 4))


def _windows(rng: np.random.Generator) -> Grey:
    """A facade: dark panes, some lit, on a plain wall."""
    n = 2 ** int(rng.integers(2, 4))
    u, v = x * n % TILE, y * n % TILE
    pane = (u > 0.25 * TILE) & (u < 0.75 * TILE) & (v > 0.2 * TILE) & (v < 0.75 * TILE)
    frame = pane & ((np.abs(u - TILE / 2) < 5) | (np.abs(v - 0.47 * TILE) < 5))
    light = rng.random((n, n))[y * n // TILE, x * n // TILE]
    return np.where(frame, 0.9, np.where(pane, 0.25 * light, 0.6 + 0.2 * _noise(rng, 3)))


def _poster(rng: np.random.Generator) -> Grey:
    """Large shapes and a line of text."""
    picture = np.full((TILE, TILE), rng.random())
    for _ in range(12):
        centre, size = rng.uniform(0, TILE, 2), rng.uniform(6, 40, 2)
        round_one = ((x - centre[0]) / size[0]) ** 2 + ((y - centre[1]) / size[1]) ** 2 < 1
        square = (np.abs(x - centre[0]) < size[0]) & (np.abs(y - centre[1]) < size[1])
        picture[square if rng.random() < 0.5 else round_one] = rng.random()
    picture[100:120] = _text(rng)[100:120]
    return 0.9 * picture + 0.1 * _noise(rng, 4)


def _cells(rng: np.random.Generator) -> Grey:
    """Pebbles, leaves: every pixel has the tone of its nearest seed, darker at the rims."""
    seeds, tones = rng.uniform(0, TILE, (CELLS, 2)), rng.random(CELLS)
    apart = np.abs(np.stack([x, y], -1)[:, :, None] - seeds).astype(np.float32)
    distance = np.hypot(*np.moveaxis(np.minimum(apart, TILE - apart), -1, 0))
    first, second = np.moveaxis(np.partition(distance, 1, axis=-1)[..., :2], -1, 0)
    rim = np.clip((second - first) / 4, 0, 1)
    return rim * (0.25 + 0.6 * tones[distance.argmin(-1)]) + 0.15 * _noise(rng, 4)


def _weave(rng: np.random.Generator) -> Grey:
    n = 2 ** int(rng.integers(3, 6))
    threads = np.sin(2 * np.pi * n * x / TILE) * np.sin(2 * np.pi * n * y / TILE)
    return 0.4 + 0.25 * threads + 0.35 * _noise(rng, 2)


def _speckle(rng: np.random.Generator) -> Grey:
    return _noise(rng, int(rng.integers(1, 4)))


PATTERNS: dict[str, Callable[[np.random.Generator], Grey]] = {
    "speckle": _speckle,
    "checks": _checks,
    "stripes": _stripes,
    "bricks": _bricks,
    "text": _text,
    "plaster": _plaster,
    "wood": _wood,
    "planks": _planks,
    "windows": _windows,
    "poster": _poster,
    "cells": _cells,
    "weave": _weave,
}
