"""What one chunk has found out reaches the next."""

from dataclasses import replace

import numpy as np
import pytest

from scal3r_ros.geometry.sim3 import invert_pose
from scal3r_ros.mapping.carried import Carried, carried_from, carry_over
from scal3r_ros.mapping.config import ChunkConfig, KeyframeConfig, MapperConfig, RefinementConfig
from scal3r_ros.mapping.mapper import Mapper
from scal3r_ros.mapping.pipeline import map_sequence
from scal3r_ros.mapping.types import Chunk, Prediction
from test.conftest import TruthPredictor


@pytest.fixture
def prediction(walk) -> Prediction:
    chunk = Chunk(0, tuple(walk.frames[8:16]), 4, 3)
    return TruthPredictor(walk.clip, scales=(2.0,)).predict(chunk, 0)[0]


def truth(walk, rows: slice) -> np.ndarray:
    return walk.T_world_cam[rows]


def test_the_unit_and_the_poses_of_shared_frames_are_those_of_the_chunk_before(walk, prediction):
    """A true prediction at half the unit comes out as the truth, relative to the reference."""
    depth = walk.clip.depth[8:12].numpy().astype(np.float32)
    carried = Carried(depth, np.full_like(depth, 7), truth(walk, slice(8, 12)))
    over = carry_over(prediction, carried, reference=3)
    T = truth(walk, slice(8, 16))
    np.testing.assert_allclose(over.T_submap_cam, invert_pose(T[3]) @ T, atol=1e-5)
    np.testing.assert_allclose(over.depth, walk.clip.depth[8:16].numpy(), rtol=1e-3)


def test_without_common_depth_the_prediction_stays(walk, prediction):
    nothing = Carried(*2 * [np.zeros_like(prediction.depth[:4])], truth(walk, slice(8, 12)))
    assert carry_over(prediction, nothing, reference=3) is prediction


def test_only_what_both_hold_is_carried(walk, prediction):
    mapper = Mapper(TruthPredictor(walk.clip), config(carry=True))
    map_sequence(walk.frames[:24], mapper, None)
    before = mapper.submaps[-1]
    apart = Chunk(9, tuple(walk.frames[40:48]), 0, 3)
    assert carried_from(before, apart, prediction) is None
    last = [walk.frames[i] for i in before.frame_indices[-3:]]
    following = Chunk(9, (*last, *walk.frames[40:44]), 3, 3)
    found = carried_from(before, following, prediction)
    assert found is not None and len(found) == 3
    np.testing.assert_array_equal(found.T_before_cam, before.T_submap_cam[-3:])
    maps = ("depth", "confidence", "edge_certainty")
    smaller = replace(prediction, **{m: getattr(prediction, m)[:, 1::2, 1::2] for m in maps})
    found = carried_from(before, following, smaller)
    np.testing.assert_array_equal(found.depth, before.depth[-3:, 1::2, 1::2])


def config(carry: bool) -> MapperConfig:
    return MapperConfig(
        keyframes=KeyframeConfig(min_flow=0.0, standstill_flow=0.0, max_interval_s=0.0),
        chunks=ChunkConfig(12, 6, 12),
        refinement=replace(RefinementConfig(), carry=carry),
    )


@pytest.mark.parametrize("carry", [True, False])
def test_chunks_of_a_run_share_one_unit_only_if_it_is_carried(walk, carry):
    """The predictor gives every chunk another unit, from 0.5 to 2."""
    mapper = Mapper(TruthPredictor(walk.clip), config(carry))
    map_sequence(walk.frames[:42], mapper, None)
    scales = np.array([submap.T_map_submap.s for submap in mapper.submaps])
    spread = scales.max() / scales.min()
    assert len(scales) >= 5
    assert spread < 1.1 if carry else spread > 2
