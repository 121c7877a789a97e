"""Depth images of two folders, compared by name."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from scal3r_ros.data.sequence import SequenceError
from scal3r_ros.data.sequence_folder import read_depth
from scal3r_ros.evaluation.depth import evaluate_depth


def evaluate_folders(truth: Path, estimate: Path) -> dict[str, Any]:
    """Over all images that both hold; the estimate is resized to the truth, nearest pixel."""
    names = sorted({p.name for p in truth.glob("*.png")} & {p.name for p in estimate.glob("*.png")})
    if not names:
        raise SequenceError(f"{truth} and {estimate} share no depth image name")
    true_depth, own_depth, per_image = [], [], []
    for name in names:
        t, e = read_depth(truth / name), read_depth(estimate / name)
        e = cv2.resize(e, t.shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        both = (t > 0) & (e > 0)
        if both.any():
            true_depth.append(t[both])
            own_depth.append(e[both])
            per_image.append(evaluate_depth(t[both], e[both]).abs_rel)
    errors = evaluate_depth(np.concatenate(true_depth), np.concatenate(own_depth))
    return {
        "images": len(names),
        **errors.as_dict(),
        "abs_rel_scale_per_image": float(np.mean(per_image)),
    }
