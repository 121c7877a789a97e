"""The map's filters on known worlds: thresholds are measured on some, judged on others."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from scal3r_ros.evaluation import filters
from scal3r_ros.evaluation.filters import MappedFrame, mapped_frames, total_counts
from scal3r_ros.mapping.config import MapperConfig, PointMapConfig, profile
from scal3r_ros.mapping.mapper import Mapper
from scal3r_ros.mapping.predictor import NetworkPredictor
from scal3r_ros.mapping.types import Frame
from scal3r_ros.training.scenes import FAMILIES
from scal3r_ros.training.world import WorldClip, render_clip

TEST_SEED, TUNING_SEED = 600_000, 610_000  # worlds; training worlds lie far above
CLIPS, FRAMES, SIZE, STRIDE = 4, 24, (126, 168), 0.8  # of a family; the images
SWEPT: dict[str, tuple[float, ...]] = {
    "drop_confidence": (0.0, 0.2, 0.35, 0.5, 0.65),
    "drop_certainty": (0.0, 0.05, 0.1, 0.2, 0.3),
    "grazing_cos": (-1.0, 0.06, 0.12, 0.2, 0.3),
    "isolation": (-1, 4, 8, 16, 20),
    "consistency": (0.015, 0.02, 0.03, 0.05, 0.08),
    "min_support": (0, 1, 2, 3, 4, 5),
    "max_depth": (3.0, 5.0, 10.0),
}


def filter_rows() -> list[dict[str, Any]]:
    """As `evaluation.filters.filter_rows`, on the test worlds."""
    return filters.filter_rows(list(world_frames(TEST_SEED)))


def threshold_rows() -> list[dict[str, Any]]:
    """Counts with one threshold after the other changed, the others at their defaults."""
    frames = list(world_frames(TUNING_SEED))
    return [
        {"threshold": name, "value": value}
        | total_counts(frames, replace(PointMapConfig(), **{name: value}))
        for name, values in SWEPT.items()
        for value in values
    ]


def world_frames(first_seed: int) -> Iterator[MappedFrame]:
    """Of clips of every family, with the shipped nano weights and K known."""
    predictor = NetworkPredictor.load("nano", device="cpu", precision="fp32")
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
    depth = clip.depth.numpy().astype(np.float64)
    yield from mapped_frames(mapper.submaps, lambda index: depth[index])
