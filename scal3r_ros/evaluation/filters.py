"""What the map's filters take away: points in the air and wrong ones, or good ones?"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from scal3r_ros.data.sequence import open_sequence
from scal3r_ros.data.sequence_folder import files_beside, read_depth
from scal3r_ros.evaluation.boundary import edge_kinds, on_one_scale
from scal3r_ros.evaluation.render import draw_cloud, overview, typical_spacing
from scal3r_ros.mapping.config import MapperConfig, PointMapConfig
from scal3r_ros.mapping.mapper import Mapper
from scal3r_ros.mapping.pipeline import map_sequence
from scal3r_ros.mapping.point_filters import frame_filter
from scal3r_ros.mapping.point_map import Cloud, PointMap
from scal3r_ros.mapping.prediction import Predictor
from scal3r_ros.mapping.types import MapUpdate, Submap

RIGHT, WRONG = 0.05, 0.30  # relative error of a point's depth, at the submap's scale
OFF = PointMapConfig(
    drop_confidence=0.0,
    drop_certainty=0.0,
    max_depth=1e9,
    crowd=0,
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
Truth = Callable[[int], Float[ndarray, "h w"] | None]  # depth of an image, 0 = none


@dataclass(frozen=True, eq=False)
class MappedFrame:
    """A frame of the map, and what is known of its pixels."""

    submap: Submap
    slot: int
    median: float  # depth of its submap
    error: Float[ndarray, "h w"]  # relative, of depth at the submap's scale; infinite: no truth
    edge: Bool[ndarray, "h w"]
    flying: Bool[ndarray, "h w"]  # between the two surfaces of an edge, or outside both

    def counts(self, config: PointMapConfig) -> dict[str, int]:
        known = self.error < np.inf
        kept = known & frame_filter(self.submap, self.slot, self.median, config)
        sets = {"points": known, "right": self.error < RIGHT, "wrong": known & (self.error > WRONG)}
        sets |= {"flying": self.flying, "good_edge": self.edge & ~self.flying}
        sets |= {f"{name}_kept": kept & pixels for name, pixels in sets.items()}
        return {name: int(pixels.sum()) for name, pixels in sets.items()}


def mapped_frames(submaps: Iterable[Submap], truth: Truth) -> Iterator[MappedFrame]:
    """Every frame that is new in its submap and whose truth is known."""
    for submap in submaps:
        depth = submap.depth.astype(np.float64)
        told = [(k, truth(index)) for k, index in enumerate(submap.frame_indices)]
        true = {k: _at_size(t, depth.shape[1:]) for k, t in told if t is not None}
        seen = {k: (t > 0) & (depth[k] > 0) for k, t in true.items()}
        ratios = [t[seen[k]] / depth[k][seen[k]] for k, t in true.items()]
        if not any(map(len, ratios)):
            continue
        s, median = float(np.median(np.concatenate(ratios))), float(np.median(depth[depth > 0]))
        for k, t in true.items():
            if k >= submap.first_new:
                off = np.abs(s * depth[k] / np.where(seen[k], t, 1.0) - 1)
                edge, (between, _, outside) = edge_kinds(t, on_one_scale(t, depth[k]))
                error = np.where(seen[k], off, np.inf)
                yield MappedFrame(submap, k, median, error, edge, between | outside)


def _at_size(depth: Float[ndarray, "a b"], size: tuple[int, ...]) -> Float[ndarray, "h w"]:
    resized = cv2.resize(depth, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(resized).astype(np.float64)


def filter_rows(frames: list[MappedFrame]) -> list[dict[str, Any]]:
    """Counts of points without any filter, with each alone at its default, with all."""
    usual = PointMapConfig()
    ways = {"none": OFF}
    for title, names in FILTERS.items():
        ways[title] = replace(OFF, **{name: getattr(usual, name) for name in names})
    return [{"filter": title} | total_counts(frames, config) for title, config in ways.items()]


def total_counts(frames: list[MappedFrame], config: PointMapConfig) -> dict[str, int]:
    each = [frame.counts(config) for frame in frames]
    return {name: sum(counts[name] for counts in each) for name in each[0]}


def filter_shares(row: dict[str, Any]) -> dict[str, float]:
    """What filters leave, in shares. NaN of what there is none of."""

    def share(part: int, whole: int) -> float:
        return part / whole if whole else float("nan")

    return {
        "points kept": share(row["points_kept"], row["points"]),
        "right ones kept": share(row["right_kept"], row["right"]),
        "right among the kept": share(row["right_kept"], row["points_kept"]),
        "wrong among the kept": share(row["wrong_kept"], row["points_kept"]),
        "flying points removed": 1 - share(row["flying_kept"], row["flying"]),
        "good edge points kept": share(row["good_edge_kept"], row["good_edge"]),
    }


def evaluate_filters(
    folder: Path, predictor: Predictor, config: MapperConfig, picture: Path | None = None
) -> dict[str, Any]:
    """Maps a sequence; shares by filter where the folder has a sensor's depth. The picture shows
    the map without and with the filters."""
    mapper = Mapper(predictor, config)
    map_sequence(open_sequence(folder), mapper, None)
    bare, usual = _unfiltered(mapper), mapper.point_map.cloud()
    if picture is not None:
        draw_filtered(picture, bare, usual, np.stack(list(mapper.keyframe_poses().values())))
    found: dict[str, Any] = {"points without filters": len(bare), "points": len(usual)}
    at = files_beside(folder, "depth")
    measured = mapped_frames(mapper.submaps, lambda i: read_depth(at[i]) if i in at else None)
    frames = list(measured)
    if frames:
        rows = {row["filter"]: filter_shares(row) for row in filter_rows(frames)}
        found["against the sensor's depth"] = {
            name: {what: round(share, 3) for what, share in shares.items()}
            for name, shares in rows.items()
        }
    return found


def _unfiltered(mapper: Mapper) -> Cloud:
    points = PointMap(OFF, mapper.shelf)
    for submap in mapper.submaps:
        points.update(MapUpdate(submap, ()))
    return points.cloud()


def draw_filtered(path: Path, bare: Cloud, usual: Cloud, poses: Float[ndarray, "s 4 4"]) -> None:
    """The same view of both, side by side."""
    view = overview(usual, poses, 1000, 750)
    drawn = [draw_cloud(cloud, view, typical_spacing(usual))[0] for cloud in (bare, usual)]
    cv2.imwrite(str(path), cv2.cvtColor(np.concatenate(drawn, axis=1), cv2.COLOR_RGB2BGR))
