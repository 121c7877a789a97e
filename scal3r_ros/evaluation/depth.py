"""Depth against the truth after one scale."""

from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray


@dataclass(frozen=True)
class DepthErrors:
    pixels: int
    scale: float  # applied to the estimate
    abs_rel: float
    delta_1: float  # share of pixels within a factor of 1.25

    def as_dict(self) -> dict[str, float | int]:
        return asdict(self)


def evaluate_depth(truth: Float[ndarray, " n"], estimate: Float[ndarray, " n"]) -> DepthErrors:
    """Over valid pixels (both > 0), the estimate scaled by the median ratio."""
    valid = (truth > 0) & (estimate > 0) & np.isfinite(truth) & np.isfinite(estimate)
    if not valid.any():
        raise ValueError("no pixel has both a true and an estimated depth")
    t, e = truth[valid].astype(np.float64), estimate[valid].astype(np.float64)
    scale = float(np.median(t / e))
    e = e * scale
    ratio = np.maximum(t / e, e / t)
    return DepthErrors(
        pixels=int(valid.sum()),
        scale=scale,
        abs_rel=float((np.abs(t - e) / t).mean()),
        delta_1=float((ratio < 1.25).mean()),
    )
