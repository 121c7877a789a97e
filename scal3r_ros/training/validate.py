"""What weights know: depth and poses on procedural worlds that no training run has seen."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from scipy.spatial.transform import Rotation

from scal3r_ros.network.camera_head import decode_camera
from scal3r_ros.network.checkpoint import load_model
from scal3r_ros.network.scal3r import ChunkImages, Scal3R
from scal3r_ros.training.samples import ChunkSample, chunk_sample
from scal3r_ros.training.scenes import FAMILIES
from scal3r_ros.training.world import render_clip

FRAMES, HEIGHT, WIDTH = 8, 126, 168
ERRORS = (
    "abs_rel",
    "abs_rel_ramp",
    "rotation_deg",
    "rotation_deg_still",
    "direction_deg",
    "translation_share",
)
FIRST_SEED = 900_000  # training worlds start at SampleConfig.first_seed, far above


def validate(weights: Path, clips_per_family: int = 4) -> dict[str, Any]:
    """Medians over clips, per family and all together, beside what needs no network: depth by image
    row alone (`ramp`), and cameras that do not move (`still`)."""
    model = load_model(weights).eval()
    rows: list[dict[str, Any]] = []
    for k, family in enumerate(FAMILIES):
        for i in range(clips_per_family):
            seed = FIRST_SEED + 1000 * k + i
            clip = render_clip(seed, FRAMES, HEIGHT, WIDTH, family=family, stride=0.8)
            rows.append({"family": family} | clip_errors(model, chunk_sample([clip], 0, FRAMES, 0)))
    names = [n for n in rows[0] if n != "family"]
    result: dict[str, Any] = {"clips": len(rows)}
    result |= {n: float(np.nanmedian([r[n] for r in rows])) for n in names}
    for family in FAMILIES:
        mine = [r for r in rows if r["family"] == family]
        result[family] = {n: float(np.nanmedian([r[n] for r in mine])) for n in names}
    return result


@torch.no_grad()
def clip_errors(model: Scal3R, sample: ChunkSample) -> dict[str, float]:
    """AbsRel after one scale for the clip; angles [deg] of the poses against the reference's, and
    the error of translation as a share of how far the cameras move: 1 is that of no motion."""
    outputs, _ = model([ChunkImages(sample.images, sample.reference, 0)], None)
    valid = sample.valid[0].numpy()
    if not valid.any():
        return dict.fromkeys(ERRORS, np.nan)
    truth = sample.depth[0].numpy()
    predicted = outputs[0].depth[0].numpy()
    ramp = np.broadcast_to(np.linspace(1.6, 0.7, HEIGHT)[:, None], truth.shape[1:])
    ramp = np.broadcast_to(ramp, truth.shape)
    T_pred, _ = decode_camera(outputs[0].encodings[-1][0], HEIGHT, WIDTH)
    T_true, _ = decode_camera(sample.encoding[0], HEIGHT, WIDTH)
    T_still = np.tile(np.eye(3, 4), (len(truth), 1, 1))
    rotation, direction = pose_errors(T_pred.numpy(), T_true.numpy())
    errors = (
        abs_rel(predicted[valid], truth[valid]),
        abs_rel(ramp[valid], truth[valid]),
        rotation,
        pose_errors(T_still, T_true.numpy())[0],
        direction,
        translation_share(T_pred.numpy(), T_true.numpy()),
    )
    return dict(zip(ERRORS, errors, strict=True))


def translation_share(predicted: Float[ndarray, "s 3 4"], truth: Float[ndarray, "s 3 4"]) -> float:
    """Mean error over the mean way; NaN where nothing moves."""
    way = np.linalg.norm(truth[:, :, 3], axis=1).mean()
    error = np.linalg.norm(predicted[:, :, 3] - truth[:, :, 3], axis=1).mean()
    return float(error / way) if way > 0.01 else float("nan")


def abs_rel(predicted: Float[ndarray, " n"], truth: Float[ndarray, " n"]) -> float:
    scaled = predicted * np.median(truth / predicted)
    return float(np.mean(np.abs(scaled - truth) / truth))


def pose_errors(
    predicted: Float[ndarray, "s 3 4"], truth: Float[ndarray, "s 3 4"]
) -> tuple[float, float]:
    """Median rotation error and median angle between translations; NaN where nothing moves."""
    R = np.swapaxes(predicted[:, :, :3], 1, 2) @ truth[:, :, :3]
    rotation = np.degrees(Rotation.from_matrix(R.astype(np.float64)).magnitude())
    a, b = predicted[:, :, 3], truth[:, :, 3]
    length = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    moved = np.linalg.norm(b, axis=1) > 0.02
    if not moved.any():
        return float(np.median(rotation)), np.nan
    cosine = (a * b).sum(axis=1)[moved] / np.maximum(length[moved], 1e-9)
    return (
        float(np.median(rotation)),
        float(np.degrees(np.median(np.arccos(np.clip(cosine, -1, 1))))),
    )
