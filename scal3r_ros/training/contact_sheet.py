"""What the procedural world looks like, and how fast it is rendered."""

import time
from pathlib import Path

import cv2
import numpy as np
import torch

from scal3r_ros.training.pictures import painted
from scal3r_ros.training.scenes import FAMILIES
from scal3r_ros.training.world import render_clip

SEED, HEIGHT, WIDTH = 920_000, 126, 168
CLIP = 12  # frames whose rendering is timed


def frames_per_second(device: str) -> dict[str, float]:
    """Of every family, at 168 x 126, in one thread."""
    torch.set_num_threads(1)
    rates = {}
    for family in FAMILIES:
        render_clip(SEED, 1, HEIGHT, WIDTH, family=family, device=device)
        _wait(device)
        began = time.perf_counter()
        render_clip(SEED + 1, CLIP, HEIGHT, WIDTH, family=family, device=device)
        _wait(device)
        rates[family] = round(CLIP / (time.perf_counter() - began), 1)
    return rates


def _wait(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def write_contact_sheet(path: Path, columns: int, photographs: Path | None = None) -> None:
    """A row a family: as training sees them, every third with its depth beside."""
    rows = []
    for family in FAMILIES:
        cells = []
        for k in range(columns):
            clip = render_clip(
                SEED + 100 + k,
                1,
                HEIGHT,
                WIDTH,
                family=family,
                degradation="harsh" if k % 2 else "mild",
                photographs=photographs,
            )
            cells.append(clip.images[0].numpy())
            if k % 3 == 0:
                cells.append(painted(clip.depth[0].numpy(), clip.depth[0].numpy())[0])
        rows.append(np.concatenate(cells, axis=1))
    if not cv2.imwrite(str(path), np.concatenate(rows)[..., ::-1]):
        raise OSError(f"cannot write {path}")
