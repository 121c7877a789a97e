"""Pictures of what a network sees while it is trained: a look says more than a loss."""

from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray

from scal3r_ros.network.scal3r import ChunkImages, Scal3R
from scal3r_ros.training.samples import ChunkSample, chunk_sample
from scal3r_ros.training.scenes import FAMILIES
from scal3r_ros.training.world import render_clip

SEED, FRAMES, HEIGHT, WIDTH = 910_000, 4, 112, 154  # of worlds that are never trained on


def validation_samples() -> list[ChunkSample]:
    """A clip of every family."""
    clips = [
        render_clip(SEED + k, FRAMES, HEIGHT, WIDTH, family=family)
        for k, family in enumerate(FAMILIES)
    ]
    return [chunk_sample([clip], 0, FRAMES, 0) for clip in clips]


@torch.no_grad()
def write_validation_picture(model: Scal3R, samples: list[ChunkSample], path: Path) -> None:
    """A column a clip: image, true depth, depth, certainty of the gate; PNG."""
    device = next(model.parameters()).device
    columns = []
    for sample in (s.to(device) for s in samples):
        outputs, _ = model([ChunkImages(sample.images, sample.reference, 0)])
        k = sample.reference
        image = (sample.images[0, k] * 255).byte().permute(1, 2, 0).cpu().numpy()
        truth, depth = sample.depth[0, k].cpu().numpy(), outputs[0].depth[0, k].cpu().numpy()
        seen = truth > 0
        unit = np.median(truth[seen] / depth[seen]) if seen.any() else 1.0
        certainty = outputs[0].edge_certainty[0, k].cpu().numpy()
        shown = [image, *painted(truth, depth * unit), _grey(certainty)]
        columns.append(np.concatenate(shown))
    if not cv2.imwrite(str(path), np.concatenate(columns, axis=1)[..., ::-1]):
        raise OSError(f"cannot write {path}")


def painted(
    truth: Float[ndarray, "h w"], depth: Float[ndarray, "h w"]
) -> list[UInt8[ndarray, "h w 3"]]:
    """Both by the same colours of inverse depth; black where nothing is."""
    seen = truth > 0
    low, high = np.percentile(1 / truth[seen], [2, 98]) if seen.any() else (0.0, 1.0)
    pictures = []
    for values in (truth, depth):
        inverse = np.where(values > 0, 1 / np.maximum(values, 1e-9), low)
        level = np.clip((inverse - low) / max(high - low, 1e-9), 0, 1)
        colours = cv2.applyColorMap((255 * level).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
        pictures.append(np.where((values > 0)[..., None], colours, 0).astype(np.uint8))
    return pictures


def _grey(share: Float[ndarray, "h w"]) -> UInt8[ndarray, "h w 3"]:
    return np.repeat((255 * share).astype(np.uint8)[..., None], 3, axis=-1)
