"""What heads are tried on: small windows of rendered views that have an edge in them."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from scal3r_ros.evaluation.boundary import edge_kinds
from scal3r_ros.training.scenes import FAMILIES
from scal3r_ros.training.world import render_clip

VIEW, WINDOW = 64, 32  # pixels; four windows of a view
LEAST_EDGES = 16  # pixels at an edge of two surfaces, of a window
SUPERSAMPLING = 3  # a pixel's colour is the mean of 3 x 3 rays, its depth that of the middle one
FOV_DEG = (6.0, 12.0)  # 0.09 to 0.19 degrees a pixel: images of 60 degrees, 320 to 640 wide
COARSE, COARSE_NOISE = 8, 0.03  # pixels that coarse depth is averaged over; deviation of its log
COARSE_UNIT = 3.0  # of log depth in the input
HELD_OUT = "clutter"  # a family of scenes that is never trained on
TRAIN_SEED, TEST_SEED = 2_000_000, 900_000


@dataclass(frozen=True, eq=False)
class Views:
    """Images that stand alone."""

    images: Float[Tensor, "n 3 h w"]
    depth: Float[Tensor, "n h w"]  # 0 = sky
    held_out: list[bool]

    def inputs(self, rows: Tensor, noise: torch.Generator) -> Float[Tensor, "b 4 h w"]:
        """Colour and coarse log depth."""
        depth = self.depth[rows][:, None]
        seen = (depth > 0).to(depth.dtype)
        mean = functional.avg_pool2d(depth.clamp_min(1e-3).log() * seen, COARSE)
        log = mean / functional.avg_pool2d(seen, COARSE).clamp_min(1e-3)
        log = log + COARSE_NOISE * torch.randn(log.shape, generator=noise)
        size = (depth.shape[2], depth.shape[3])
        log = functional.interpolate(log, size, mode="bilinear", align_corners=False)
        return torch.cat([self.images[rows], log / COARSE_UNIT], dim=1)


def views(kept: Path, count: int, first_seed: int, families: tuple[str, ...]) -> Views:
    """So many windows, rendered once, kept in a file."""
    if not kept.exists():
        images, depth, held_out = [], [], []
        with tqdm(total=count, desc=f"rendering {kept.name}") as done:
            for seed in itertools.count(first_seed):
                family = families[seed % len(families)]
                for image, window in _windows(seed, family):
                    images.append(image)
                    depth.append(window)
                    held_out.append(family == HELD_OUT)
                    done.update()
                if len(images) >= count:
                    break
        kept.parent.mkdir(parents=True, exist_ok=True)
        stacked = {
            "images": torch.stack(images[:count]),
            "depth": torch.stack(depth[:count]),
            "held_out": torch.tensor(held_out[:count]),
        }
        save_file(stacked, kept)
    tensors = load_file(kept)
    images = tensors["images"].float() / 255
    return Views(images, tensors["depth"], tensors["held_out"].tolist())


def training_views(folder: Path, count: int) -> Views:
    families = tuple(f for f in FAMILIES if f != HELD_OUT)
    return views(folder / _name("train", TRAIN_SEED, count), count, TRAIN_SEED, families)


def test_views(folder: Path, count: int) -> Views:
    return views(folder / _name("test", TEST_SEED, count), count, TEST_SEED, FAMILIES)


def _name(kind: str, first_seed: int, count: int) -> str:
    """Of the file: all that its windows depend on."""
    return f"{kind}_{first_seed}_{FOV_DEG[0]:g}-{FOV_DEG[1]:g}deg_{count}.safetensors"


def _windows(seed: int, family: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Colour and depth of the quarters of a view in which there are edges."""
    n, side = SUPERSAMPLING, SUPERSAMPLING * VIEW
    clip = render_clip(seed, 1, side, side, family=family, fov_deg=FOV_DEG, textured=False)
    image = functional.avg_pool2d(clip.images[0].permute(2, 0, 1).float(), n).round().byte()
    depth = clip.depth[0, n // 2 :: n, n // 2 :: n]
    for row, column in product(range(0, VIEW, WINDOW), repeat=2):
        rows, columns = slice(row, row + WINDOW), slice(column, column + WINDOW)
        window = depth[rows, columns].clone()
        truth = window.numpy().astype(np.float64)
        edges, _ = edge_kinds(truth, truth)
        if edges.sum() >= LEAST_EDGES:
            yield image[:, rows, columns].clone(), window
