"""Filters against points in the air, as they act on the map: after refinement, on known worlds.

Thresholds are measured on worlds of their own; what the filters then take away, on others.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from scal3r_ros.evaluation.boundary import edge_kinds, on_one_scale
from scal3r_ros.mapping.config import MapperConfig, PointMapConfig, profile
from scal3r_ros.mapping.mapper import Mapper
from scal3r_ros.mapping.point_filters import frame_filter
from scal3r_ros.mapping.predictor import NetworkPredictor
from scal3r_ros.mapping.types import Frame, Submap
from scal3r_ros.training.scenes import FAMILIES
from scal3r_ros.training.world import WorldClip, render_clip

TEST_SEED, TUNING_SEED = 600_000, 610_000  # worlds; training worlds lie far above
CLIPS, FRAMES, SIZE, STRIDE = 4, 24, (126, 168), 0.8  # of a family; the images
RIGHT, WRONG = 0.05, 0.30  # relative error of a point's depth, at the submap's scale
OFF = PointMapConfig(
    drop_confidence=0.0,
    drop_certainty=0.0,
    max_depth=1e9,
    isolation=-1,
    grazing_cos=-1.0,
    consistency=1e9,
    min_support=0,
)
FILTERS = {
    "confidence": ("drop_confidence",),
    "gate certainty": ("drop_certainty",),
    "grazing angle": ("grazing_cos",),
    "isolation": ("isolation",),
    "other views": ("consistency", "min_support"),
    "far away": ("max_depth",),
    "all": tuple(f.name for f in fields(PointMapConfig)),
}
SWEPT: dict[str, tuple[float, ...]] = {
    "drop_confidence": (0.0, 0.2, 0.35, 0.5, 0.65),
    "drop_certainty": (0.0, 0.05, 0.1, 0.2, 0.3),
    "grazing_cos": (-1.0, 0.06, 0.12, 0.2, 0.3),
    "isolation": (-1, 4, 8, 16, 20),
    "consistency": (0.015, 0.02, 0.03, 0.05, 0.08),
    "min_support": (0, 1, 2, 3, 4, 5),
    "max_depth": (3.0, 5.0, 10.0),
}


@dataclass(frozen=True, eq=False)
class MappedFrame:
    """A frame of the map, and what is known of its pixels."""

    submap: Submap
    slot: int
    median: float  # depth of its submap
    error: Float[ndarray, "h w"]  # relative, of depth at the submap's scale; infinite in the sky
    edge: Bool[ndarray, "h w"]
    flying: Bool[ndarray, "h w"]  # between the two surfaces of an edge, or outside both

    def counts(self, config: PointMapConfig) -> dict[str, int]:
        kept = frame_filter(self.submap, self.slot, self.median, config)
        every = self.error < np.inf
        good_edge = self.edge & ~self.flying
        sets = {"points": every, "right": self.error < RIGHT, "wrong": self.error > WRONG}
        sets |= {"flying": self.flying, "good_edge": good_edge}
        sets |= {f"{name}_kept": kept & pixels for name, pixels in sets.items()}
        return {name: int(pixels.sum()) for name, pixels in sets.items()}


def filter_rows() -> list[dict[str, Any]]:
    """Counts of points without any filter, with each alone at its default, with all."""
    usual = PointMapConfig()
    ways = {"none": OFF}
    for title, names in FILTERS.items():
        ways[title] = replace(OFF, **{name: getattr(usual, name) for name in names})
    frames = list(mapped_frames(TEST_SEED))
    return [{"filter": title} | _total(frames, config) for title, config in ways.items()]


def threshold_rows() -> list[dict[str, Any]]:
    """Counts with one threshold after the other changed, the others at their defaults."""
    frames = list(mapped_frames(TUNING_SEED))
    return [
        {"threshold": name, "value": value}
        | _total(frames, replace(PointMapConfig(), **{name: value}))
        for name, values in SWEPT.items()
        for value in values
    ]


def _total(frames: list[MappedFrame], config: PointMapConfig) -> dict[str, int]:
    each = [frame.counts(config) for frame in frames]
    return {name: sum(counts[name] for counts in each) for name in each[0]}


def mapped_frames(first_seed: int) -> Iterator[MappedFrame]:
    """Of clips of every family, with the shipped nano weights and K known."""
    predictor = NetworkPredictor.load("nano", device="cpu")
    usual = profile("nano")
    config = replace(
        usual,
        keyframes=replace(usual.keyframes, min_flow=0.0, standstill_flow=0.0),
        loops=replace(usual.loops, enabled=False),
    )
    for k, family in enumerate(FAMILIES):
        for i in range(CLIPS):
            seed = first_seed + 1000 * k + i
            clip = render_clip(seed, FRAMES, *SIZE, family=family, stride=STRIDE)
            yield from _mapped(clip, predictor, config)


def _mapped(
    clip: WorldClip, predictor: NetworkPredictor, config: MapperConfig
) -> Iterator[MappedFrame]:
    mapper = Mapper(predictor, config)
    for i, image in enumerate(clip.images):
        mapper.add_frame(Frame(i, (i + 1) * 10**8, image.numpy(), clip.K[i].double().numpy()))
    mapper.flush()
    for submap in mapper.submaps:
        truth = clip.depth[list(submap.frame_indices)].numpy().astype(np.float64)
        depth = submap.depth.astype(np.float64)
        seen = (truth > 0) & (depth > 0)
        s, median = np.median(truth[seen] / depth[seen]), float(np.median(depth[depth > 0]))
        error = np.where(truth > 0, np.abs(s * depth / np.where(seen, truth, 1) - 1), np.inf)
        for slot in range(submap.overlap if submap.index else 0, len(depth)):
            scaled = on_one_scale(truth[slot], depth[slot])
            edge, (between, _, outside) = edge_kinds(truth[slot], scaled)
            yield MappedFrame(submap, slot, median, error[slot], edge, between | outside)
