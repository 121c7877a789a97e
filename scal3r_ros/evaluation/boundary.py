"""Depth at edges: boundary F1, and points in the air between two surfaces.

Predictions are judged after one scale for each image, the median over its interior.
"""

from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from numpy.lib.stride_tricks import sliding_window_view

THRESHOLDS = np.linspace(1.05, 1.25, 10)  # of the ratio of two neighbours (Depth Pro, 2024)
JUMP = 0.10  # relative, between the two surfaces of an edge
MARGIN = 0.2  # share of the gap that still counts as on a surface
REACH = 2  # pixels to every side of an edge pixel
SMOOTH = 0.10  # relative range of depth around a pixel of the interior
SIDES = 4  # directions to a neighbour


@dataclass(frozen=True)
class EdgeErrors:
    """Means over images; the three rates are shares of the pixels at an edge of two surfaces."""

    boundary_f1: float
    flying: float  # between the surfaces
    swapped: float  # on the other surface
    outside: float  # before the nearer or behind the farther one
    abs_rel_interior: float
    abs_rel_boundary: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def edge_errors(truth: Float[ndarray, "n h w"], estimate: Float[ndarray, "n h w"]) -> EdgeErrors:
    """Depth along z, 0 = none (sky). Images without an edge or an interior count where they can."""
    pairs = zip(truth.astype(np.float64), estimate.astype(np.float64), strict=True)
    rows = [_one(t, e) for t, e in pairs]
    return EdgeErrors(*np.nanmean(np.array(rows), axis=0).tolist())


def _one(truth: Float[ndarray, "h w"], estimate: Float[ndarray, "h w"]) -> list[float]:
    interior = _interior(_around(truth))
    if not interior.any():
        return [np.nan] * 6
    scaled = on_one_scale(truth, estimate)
    relative = np.abs(scaled - truth) / np.where(truth > 0, truth, 1.0)
    at_edge, kinds = edge_kinds(truth, scaled)
    f1 = boundary_f1(truth, scaled, truth > 0) if _has_boundary(truth) else np.nan
    if not at_edge.any():
        return [f1, *[np.nan] * 3, float(relative[interior].mean()), np.nan]
    shares = [float(kind[at_edge].mean()) for kind in kinds]
    return [f1, *shares, float(relative[interior].mean()), float(relative[at_edge].mean())]


def edge_kinds(
    truth: Float[ndarray, "h w"], estimate: Float[ndarray, "h w"]
) -> tuple[Bool[ndarray, "h w"], list[Bool[ndarray, "h w"]]]:
    """Pixels at an edge of two surfaces, and which of those are flying, swapped, outside. Where
    the truth itself is on neither surface (a floor far away, one step a row) there is no edge."""
    two, near, far = two_surfaces(_around(truth))
    gap = np.where(two, far - near, 1.0)

    def off(depth: Float[ndarray, "h w"]) -> tuple[ndarray, ndarray, ndarray]:
        share = (depth - near) / gap  # 0 nearer, 1 farther surface
        flying = (share > MARGIN) & (share < 1 - MARGIN)
        return share, flying, (share < -MARGIN) | (share > 1 + MARGIN)

    _, truth_flies, truth_outside = off(truth)
    at_edge = two & ~truth_flies & ~truth_outside
    share, flying, outside = off(estimate)
    belongs_far = np.abs(truth - far) < np.abs(truth - near)
    swapped = ~flying & ~outside & ((share > 0.5) != belongs_far)
    return at_edge, [at_edge & kind for kind in (flying, swapped, outside)]


def on_one_scale(
    truth: Float[ndarray, "h w"], estimate: Float[ndarray, "h w"]
) -> Float[ndarray, "h w"]:
    """The estimate times the median ratio over the interior; as it is where there is none."""
    interior = _interior(_around(truth)) & (estimate > 0)
    return (
        estimate * np.median(truth[interior] / estimate[interior]) if interior.any() else estimate
    )


def _around(depth: Float[ndarray, "h w"]) -> Float[ndarray, "h w k"]:
    """Every pixel's neighbourhood, 0 beyond the image."""
    side = 2 * REACH + 1
    return sliding_window_view(np.pad(depth, REACH), (side, side)).reshape(*depth.shape, -1)


def _interior(around: Float[ndarray, "h w k"]) -> Bool[ndarray, "h w"]:
    nearest = around.min(axis=2)
    return (nearest > 0) & (around.max(axis=2) < (1 + SMOOTH) * nearest)


def two_surfaces(
    around: Float[ndarray, "h w k"],
) -> tuple[Bool[ndarray, "h w"], Float[ndarray, "h w"], Float[ndarray, "h w"]]:
    """Pixels whose neighbourhood holds exactly two surfaces, JUMP apart, and their depths."""
    ordered = np.sort(around, axis=2)
    gap = ordered[..., 1:] > (1 + JUMP) * np.maximum(ordered[..., :-1], 1e-9)
    two = (ordered[..., 0] > 0) & (gap.sum(axis=2) == 1)
    last, count = gap.argmax(axis=2), around.shape[2]  # of the nearer surface

    def median(first: ndarray, end: ndarray) -> Float[ndarray, "h w"]:
        low, high = (first + end) // 2, (first + end + 1) // 2
        picked = [np.take_along_axis(ordered, i[..., None], axis=2)[..., 0] for i in (low, high)]
        return (picked[0] + picked[1]) / 2

    near = median(np.zeros_like(last), last)
    far = median(last + 1, np.full_like(last, count - 1))
    return two, near, far


def _has_boundary(truth: Float[ndarray, "h w"]) -> bool:
    """Without one there is nothing to find, and the published measure would be 0."""
    return any((ratio > THRESHOLDS[0]).any() for ratio in _ratios(truth, truth > 0))


def boundary_f1(
    truth: Float[ndarray, "h w"], estimate: Float[ndarray, "h w"], valid: Bool[ndarray, "h w"]
) -> float:
    """Scale-invariant boundary F1: where neighbours' ratio exceeds a threshold, in four directions,
    weighted by the threshold (Depth Pro, section on boundary metrics)."""
    total = 0.0
    ratios = [_ratios(depth, valid) for depth in (truth, estimate)]
    for threshold in THRESHOLDS:
        recall = precision = 0.0
        for true, found in zip(*ratios, strict=True):
            t, f = true > threshold, found > threshold
            both = float((t & f).sum())
            recall += both / max(float(t.sum()), 1.0) / SIDES
            precision += both / max(float(f.sum()), 1.0) / SIDES
        total += threshold * 2 * recall * precision / max(recall + precision, 1e-12)
    return total / float(THRESHOLDS.sum())


def _ratios(
    depth: Float[ndarray, "h w"], valid: Bool[ndarray, "h w"]
) -> list[Float[ndarray, "a b"]]:
    """Depth over that of the neighbour to the four sides; 0 where one of both is missing."""
    d = np.maximum(depth, 1e-6)
    across, along = valid[:, 1:] & valid[:, :-1], valid[1:] & valid[:-1]
    right, down = d[:, 1:] / d[:, :-1], d[1:] / d[:-1]
    return [right * across, across / right, down * along, along / down]
