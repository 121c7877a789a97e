"""Measured depth takes the place of the network's, in the network's unit."""

from dataclasses import replace

import numpy as np
import pytest

from scal3r_ros.evaluation.trajectory import evaluate
from scal3r_ros.mapping.config import ChunkConfig, MapperConfig, RefinementConfig
from scal3r_ros.mapping.counters import Counters
from scal3r_ros.mapping.mapper import Mapper
from scal3r_ros.mapping.measured_depth import (
    measured_depth,
    metres,
    with_measured,
    with_stereo_depth,
)
from scal3r_ros.mapping.refinement import Refiner
from scal3r_ros.mapping.stream import ChunkStream
from scal3r_ros.mapping.types import Chunk, Prediction
from test.conftest import TruthPredictor


@pytest.fixture(scope="module")
def said(walk) -> tuple[Chunk, Prediction]:
    """Twelve frames with their depth in metres, every third without, and a network that takes all
    for flat, in a unit of a third of a metre."""
    frames = [
        replace(f, depth=None if k % 3 == 2 else walk.clip.depth[f.index].numpy())
        for k, f in enumerate(walk.frames[4:28:2])
    ]
    chunk = Chunk(0, tuple(frames), 0, 5)
    prediction, _ = TruthPredictor(walk.clip, scales=(3.0,)).predict(chunk, 0)
    flat = np.full_like(prediction.depth, np.median(prediction.depth))
    return chunk, replace(prediction, depth=flat)


def test_what_is_measured_is_kept_and_fills_what_is_not(walk, said):
    """The frames' own depth comes back at another unit; those without any are made a third better
    than the network had them."""
    chunk, prediction = said
    refined, report = Refiner().refine(chunk, prediction, RefinementConfig())
    assert report.start != "none"
    units, before, after = [], [], []
    for frame, flat, depth in zip(chunk.frames, prediction.depth, refined.depth, strict=True):
        truth = walk.clip.depth[frame.index].numpy()
        if frame.depth is not None:
            units.append(frame.depth[truth > 0] / depth[truth > 0])
            continue
        for logs, known in ((before, flat), (after, depth)):
            log = np.log(truth[truth > 0] / known[truth > 0])
            logs.append(np.median(np.abs(log - np.median(log))))
    units = np.concatenate(units)
    np.testing.assert_allclose(units, np.median(units), rtol=1e-4)
    assert np.mean(after) < 0.67 * np.mean(before)


def test_the_unit_is_that_of_the_frames_known_before(said):
    """The first four were measured against depth of twice the size; later ones do not count."""
    chunk, prediction = said
    depth = prediction.depth.copy()
    depth[:4] *= 2
    changed = replace(prediction, depth=depth)
    ratios = []
    for known in (0, 4):
        measured = measured_depth(chunk, changed, known)
        assert measured is not None
        ratios.append(measured.depth[0][measured.depth[0] > 0].mean())
    plain = measured_depth(chunk, prediction, 4)
    assert plain is not None
    assert ratios[1] / plain.depth[0][plain.depth[0] > 0].mean() == pytest.approx(2, rel=0.05)
    assert ratios[0] < 0.8 * ratios[1]


def test_what_is_no_depth_is_not_measured(said):
    """NaN, infinity, zero and negative numbers; a frame that is all of them; edges."""
    chunk, prediction = said
    shape = chunk.frames[0].depth.shape
    broken = np.ones(shape, np.float32)
    broken[:, : shape[1] // 2] = 2.0
    broken[0, :4] = np.nan, np.inf, 0.0, -1.0
    frames = [replace(f, depth=None) for f in chunk.frames]
    frames[0] = replace(frames[0], depth=broken)
    frames[1] = replace(frames[1], depth=np.full(shape, np.nan, np.float32))
    measured = measured_depth(replace(chunk, frames=tuple(frames)), prediction, 0)
    assert measured is not None
    assert (measured.depth[0] > 0).sum() == broken.size - 4
    assert not measured.depth[1:].any() and not measured.smooth[1:].any()
    assert not measured.smooth[0][:, shape[1] // 2 - 3 : shape[1] // 2 + 3].any()
    assert measured.smooth[0][8:, 8 : shape[1] // 2 - 8].all()
    overlaid = with_measured(prediction, measured)
    assert np.isfinite(overlaid.depth).all() and (overlaid.depth > 0).all()
    np.testing.assert_array_equal(overlaid.depth[1:], prediction.depth[1:])
    nothing = tuple(replace(f, depth=None) for f in chunk.frames)
    assert measured_depth(replace(chunk, frames=nothing), prediction, 0) is None


@pytest.mark.parametrize("shrink", [1.5, 3, 4])
def test_depth_is_taken_from_the_middle_of_a_pixel(walk, shrink):
    """To half a pixel of the sensor; from its corner it would be half a network pixel off."""
    columns = np.arange(120, dtype=np.float32) + np.float32(0.5)
    size = 40, round(120 / shrink)
    found = metres(replace(walk.frames[0], depth=np.tile(columns, (120, 1))), size)
    assert found is not None
    middles = (np.arange(size[1]) + 0.5) * shrink
    assert np.abs(found - middles).max() <= 0.5


def test_a_pair_becomes_depth_once_when_it_is_a_keyframe(walk):
    """Its right image is no longer needed; without a baseline it is left as it is."""
    left = walk.frames[0]
    right = np.roll(left.image, -8, axis=1)
    pair = replace(left, right=right, baseline=0.1)
    found = with_stereo_depth(pair)
    assert found.right is None and found.depth is not None
    seen = found.depth[found.depth > 0]
    assert np.median(seen) == pytest.approx(left.K[0, 0] * 0.1 / 8, rel=0.02)
    alone = replace(pair, baseline=0.0)
    assert with_stereo_depth(alone) is alone
    config = MapperConfig(chunks=ChunkConfig(size=4, overlap=2, first_size=2))
    stream = ChunkStream(config, Counters())
    assert stream.add(pair) == []
    chunk = stream.end_piece()
    assert chunk is not None
    assert chunk.frames[0].depth is not None and chunk.frames[0].right is None


def test_a_depth_camera_makes_the_way_better_than_the_network_alone(walk):
    """A network that takes all for flat, with and without depth that is 2 % off a pixel: the mean
    of three draws of that noise, for one moves the error by a quarter."""

    class Flat(TruthPredictor):
        def predict(self, chunk, memory, *, write=True):
            said, memory = super().predict(chunk, memory, write=write)
            return replace(said, depth=np.full_like(said.depth, np.median(said.depth))), memory

    truth = {f.stamp_ns: T for f, T in zip(walk.frames, walk.T_world_cam, strict=True)}

    def error(rng: np.random.Generator | None) -> float:
        mapper = Mapper(Flat(walk.clip), MapperConfig(chunks=ChunkConfig(size=12, overlap=6)))
        for frame in walk.frames:
            if rng is not None:
                depth = walk.clip.depth[frame.index].numpy()
                noise = np.exp(rng.normal(0, 0.02, depth.shape))
                frame = replace(frame, depth=(depth * noise).astype(np.float32))
            mapper.add_frame(frame)
        mapper.flush()
        return evaluate(truth, dict(mapper.keyframe_stamped_poses())).ate_rmse

    with_depth = [error(np.random.default_rng(seed)) for seed in (5, 6, 7)]
    assert np.mean(with_depth) < 0.8 * error(None)
