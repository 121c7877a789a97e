"""How the map's filters are judged."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from scal3r_ros.evaluation.filters import (
    OFF,
    evaluate_filters,
    filter_rows,
    filter_shares,
    mapped_frames,
)
from scal3r_ros.mapping.config import KeyframeConfig, MapperConfig, RefinementConfig
from scal3r_ros.mapping.mapper import Mapper
from test.conftest import TruthPredictor

CONFIG = MapperConfig(
    keyframes=KeyframeConfig(min_flow=0.02), refinement=RefinementConfig(enabled=False)
)


class Patchy(TruthPredictor):
    """In every frame a patch of its own stands before the scene."""

    def predict(self, chunk, memory, *, write=True):
        prediction, memory = super().predict(chunk, memory, write=write)
        depth = prediction.depth.copy()
        for k, frame in enumerate(chunk.frames):
            row, column = np.random.default_rng(frame.index).integers(10, 70, 2)
            depth[k, row : row + 30, column : column + 30] *= 0.5
        return replace(prediction, depth=depth), memory


@pytest.fixture(scope="module")
def submaps(walk):
    mapper = Mapper(Patchy(walk.clip), CONFIG)
    for frame in walk.frames[:32]:
        mapper.add_frame(frame)
    mapper.flush()
    return mapper.submaps


def test_every_keyframe_is_judged_once_and_in_any_unit(walk, submaps):
    truth = walk.clip.depth.numpy().astype(np.float64)
    frames = list(mapped_frames(submaps, lambda index: 7.0 * truth[index]))
    seen = [f.submap.frame_indices[f.slot] for f in frames]
    assert sorted(seen) == sorted({i for s in submaps for i in s.frame_indices})
    shares = np.array([(f.error < 0.01).mean() for f in frames])
    assert shares.min() > 0.8 and shares.max() < 0.97  # the patch is not


def test_filters_take_the_patches_and_leave_the_scene(walk, submaps):
    truth = walk.clip.depth.numpy().astype(np.float64)
    rows = filter_rows(list(mapped_frames(submaps, lambda index: truth[index])))
    found = {row["filter"]: filter_shares(row) for row in rows}
    assert found["none"]["points kept"] == 1
    assert found["none"]["wrong among the kept"] > 0.03
    assert (
        found["other views"]["wrong among the kept"] < 0.1 * found["none"]["wrong among the kept"]
    )
    assert found["other views"]["right ones kept"] > 0.7


def test_what_nobody_measured_is_not_judged(walk, submaps):
    truth = walk.clip.depth.numpy().astype(np.float64)
    truth[:, :60] = 0
    frames = list(mapped_frames(submaps, lambda i: truth[i] if i % 2 == 0 else None))
    assert all(f.submap.frame_indices[f.slot] % 2 == 0 for f in frames)
    assert all(f.counts(OFF)["points"] == (112 - 60) * 154 for f in frames)
    assert not list(mapped_frames(submaps, lambda _: None))


def test_a_folder_with_depth_is_judged_and_drawn(walk, walk_folder, tmp_path):
    folder = tmp_path / "walk"
    folder.mkdir()
    for name in ("images", "times.txt", "camera.yaml"):
        (folder / name).symlink_to(walk_folder / name)
    bare = evaluate_filters(folder, TruthPredictor(walk.clip), CONFIG, tmp_path / "filters.png")
    assert 0 < bare["points"] < bare["points without filters"]
    assert "against the sensor's depth" not in bare
    assert cv2.imread(str(tmp_path / "filters.png")).shape == (750, 2000, 3)
    judged = evaluate_filters(walk_folder, TruthPredictor(walk.clip), CONFIG)
    every = judged["against the sensor's depth"]
    assert judged["points"] == bare["points"]
    assert every["none"]["points kept"] == 1
    assert every["all"]["right among the kept"] > 0.99
