"""The whole mapper on a rendered walk, with a predictor that knows the truth."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from scal3r_ros.data.tum import Trajectory
from scal3r_ros.evaluation.trajectory import evaluate
from scal3r_ros.geometry.camera import scale_intrinsics
from scal3r_ros.mapping.config import KeyframeConfig, MapperConfig, RefinementConfig
from scal3r_ros.mapping.mapper import Mapper
from scal3r_ros.mapping.pipeline import map_sequence
from scal3r_ros.mapping.refinement import RefinementReport, Refiner
from scal3r_ros.mapping.types import ChunkTooLargeError, PredictionError
from scal3r_ros.tracking.tracker import Tracker
from scal3r_ros.tracking.types import TrackerConfig
from test.conftest import TruthPredictor, World

CONFIG = MapperConfig(
    keyframes=KeyframeConfig(min_flow=0.005), refinement=RefinementConfig(enabled=False)
)

NONE = RefinementReport("none")


def truth_of(walk: World) -> Trajectory:
    return {f.stamp_ns: T for f, T in zip(walk.frames, walk.T_world_cam, strict=True)}


@pytest.fixture(scope="module")
def mapped(walk):
    mapper = Mapper(TruthPredictor(walk.clip), CONFIG)
    return mapper, map_sequence(walk.frames, mapper, Tracker(TrackerConfig()))


def test_chunks_of_any_scale_and_frame_join_into_the_true_path(mapped, walk):
    mapper, run = mapped
    assert mapper.counters.chunks >= 4
    scales = [s.T_map_submap.s for s in mapper.submaps]
    expected = np.array([1.0, 2.0, 0.5, 1.3])[: len(scales)]
    np.testing.assert_allclose(np.array(scales[:4]) / scales[0], expected, rtol=0.02)
    errors = evaluate(truth_of(walk), run.trajectory(mapper))
    assert errors.matched == len(walk.frames)  # a pose for every image
    assert errors.ate_share < 0.01


def test_odometry_follows_the_camera_between_keyframes(mapped, walk):
    _, run = mapped
    errors = evaluate(truth_of(walk), run.odometry())
    assert errors.matched > 0.7 * len(walk.frames)
    assert errors.ate_share < 0.03


def test_the_cloud_lies_on_the_walls(mapped, walk):
    """Each point, projected into a true camera that sees it, is as far as the true depth there."""
    mapper, _ = mapped
    cloud = mapper.point_map.cloud()
    assert len(cloud) > 2000
    first = mapper.submaps[0]
    reference = first.frame_indices[(len(first.frame_indices) + 1) // 2 - 1]
    xyz_cam = first.T_map_submap.inverse().apply(cloud.xyz.astype(float))
    K, depth = walk.frames[reference].K, walk.clip.depth[reference].numpy()
    z = xyz_cam[:, 2]
    uv = (xyz_cam[:, :2] / z[:, None]) * K[[0, 1], [0, 1]] + K[:2, 2]
    inside = (z > 0.1) & (uv > 1).all(1) & (uv < np.array(depth.shape[::-1]) - 1).all(1)
    u, v = uv[inside].astype(int).T
    error = np.abs(z[inside] / depth[v, u] - 1)
    assert np.median(error) < 0.02


def test_the_first_camera_is_level_in_a_map_with_z_up(mapped):
    mapper, _ = mapped
    first = mapper.submaps[0]
    T_map_cam = first.T_map_submap.apply_pose(np.eye(4))
    np.testing.assert_allclose(T_map_cam[:3, 2], [1, 0, 0], atol=1e-6)  # looks along map x
    np.testing.assert_allclose(T_map_cam[:3, 1], [0, 0, -1], atol=1e-6)  # its down is map -z


def test_a_discarded_chunk_starts_a_new_component_and_loses_no_session(walk):
    class Stumbling(TruthPredictor):
        def predict(self, chunk, memory, *, write=True):
            if chunk.index == 2:
                raise PredictionError("NaN")
            return super().predict(chunk, memory, write=write)

    mapper = Mapper(Stumbling(walk.clip), CONFIG)
    map_sequence(walk.frames, mapper, None)
    assert mapper.counters.chunks_discarded == 1
    assert mapper.counters.components == 2
    assert len(mapper.submaps) == mapper.counters.chunks > 2


def test_a_pause_and_another_size_end_a_piece_and_no_chunk_spans_them(walk):
    """The first pass of the offline schedule cuts the same chunks that are mapped afterwards."""
    late = [replace(f, stamp_ns=f.stamp_ns + 60 * 10**9) for f in walk.frames[20:40]]
    small = [replace(f, image=f.image[::2, ::2].copy(), K=None) for f in late[10:]]
    stream = [*walk.frames[:20], *late[:10], *small]
    first = Mapper(TruthPredictor(walk.clip), CONFIG)
    due = [chunk for frame in stream for chunk in first.stream.add(frame)]
    rest = first.stream.chunker.flush()
    due += [rest] if rest else []
    mapper = Mapper(TruthPredictor(walk.clip), CONFIG)
    map_sequence(stream, mapper, None)
    indices = [tuple(f.index for f in chunk.frames) for chunk in due]
    assert [s.frame_indices for s in mapper.submaps] == indices
    assert mapper.counters.interruptions == 2
    for piece in ({*range(20)}, {*range(20, 30)}, {*range(30, 40)}):
        assert all(set(chunk) <= piece or not set(chunk) & piece for chunk in indices)
    assert {i for chunk in indices for i in chunk} == set(range(40))


def test_chunks_grow_shorter_where_the_device_has_no_memory_for_them(walk, caplog):
    class Small(TruthPredictor):
        """A device that holds nine frames."""

        def predict(self, chunk, memory, *, write=True):
            if len(chunk.frames) > 9:
                raise ChunkTooLargeError("out of GPU memory", len(chunk.frames) // 2)
            return super().predict(chunk, memory, write=write)

    mapper = Mapper(Small(walk.clip), CONFIG)
    run = map_sequence(walk.frames, mapper, None)
    assert mapper.counters.components == 1  # the parts still share frames
    assert mapper.counters.chunks_discarded == 0
    assert mapper.stream.chunker.config.size <= 9
    assert set(mapper.keyframe_poses()) == {f.index for f in walk.frames}
    assert "from here on" in caplog.text
    assert evaluate(truth_of(walk), run.trajectory(mapper)).ate_share < 0.03


def test_images_grow_smaller_where_not_even_a_short_chunk_fits(walk, caplog):
    class Shrinking(TruthPredictor):
        """From its third chunk on the device has no room for images of the first size."""

        smaller = 1

        def predict(self, chunk, memory, *, write=True):
            if chunk.index >= 2 and self.smaller == 1:
                raise ChunkTooLargeError("out of GPU memory", 3)
            prediction, memory = super().predict(chunk, memory, write=write)
            n, size = self.smaller, prediction.depth.shape[1:]
            every = (slice(None), slice(n // 2, None, n), slice(n // 2, None, n))
            maps = ("depth", "confidence", "edge_certainty")
            small = {name: getattr(prediction, name)[every] for name in maps}
            K = scale_intrinsics(prediction.K, size, small["depth"].shape[1:])
            return replace(prediction, **small, K=K), memory

        def use_smaller_images(self):
            self.smaller = 2
            return True

    mapper = Mapper(Shrinking(walk.clip), CONFIG)
    run = map_sequence(walk.frames, mapper, None)
    sizes = [submap.depth.shape[1:] for submap in mapper.submaps]
    assert sizes[0] > sizes[2] == sizes[-1]
    assert mapper.counters.components == 1  # submaps of both sizes share frames
    assert mapper.counters.chunks_discarded == 0
    assert "smaller images from here on" in caplog.text
    assert evaluate(truth_of(walk), run.trajectory(mapper)).ate_share < 0.03


def test_a_device_without_room_for_any_chunk_is_reported_not_a_crash(walk, caplog):
    class Tiny(TruthPredictor):
        def predict(self, chunk, memory, *, write=True):
            raise ChunkTooLargeError("out of GPU memory", len(chunk.frames) // 2)

    mapper = Mapper(Tiny(walk.clip), CONFIG)
    map_sequence(walk.frames[:30], mapper, None)
    assert mapper.submaps == []
    assert mapper.counters.chunks_discarded > 0
    assert "a chunk needs at least 4 keyframes" in caplog.text


def test_reset_starts_a_new_session_with_nothing_kept(walk):
    mapper = Mapper(TruthPredictor(walk.clip), CONFIG)
    map_sequence(walk.frames[:30], mapper, None)
    assert mapper.submaps
    mapper.reset()
    assert (mapper.session, mapper.submaps, mapper.memory) == (1, [], 0)
    assert len(mapper.point_map.cloud()) == 0


def test_refinement_repairs_a_bent_prediction(walk):
    """Depth with a wrong ramp and poses that stand still come back to the truth."""

    class Bent(TruthPredictor):
        def predict(self, chunk, memory, *, write=True):
            prediction, memory = super().predict(chunk, memory, write=write)
            height = prediction.depth.shape[1]
            ramp = np.linspace(1.6, 0.7, height, dtype=np.float32)[:, None]
            bent = replace(
                prediction,
                depth=prediction.depth * ramp,
                T_submap_cam=np.tile(np.eye(4), (len(prediction.depth), 1, 1)),
            )
            return bent, memory

    config = replace(CONFIG, refinement=RefinementConfig())
    mapper = Mapper(Bent(walk.clip), config)
    run = map_sequence(walk.frames, mapper, None)
    assert evaluate(truth_of(walk), run.trajectory(mapper)).ate_share < 0.06


def test_images_are_looked_at_beside_a_network_that_leaves_the_processor_alone(walk, monkeypatch):
    looked = threading.Event()

    def look(self, chunk, config):
        looked.set()

    class Waiting(TruthPredictor):
        def predict(self, chunk, memory, *, write=True):
            assert looked.wait(0.0 if self.on_host else 30.0) != self.on_host
            return super().predict(chunk, memory, write=write)

    monkeypatch.setattr(Refiner, "look", look)
    monkeypatch.setattr(Refiner, "refine", lambda _, chunk, prediction, *rest: (prediction, NONE))
    for on_host in (False, True):
        looked.clear()
        mapper = Mapper(Waiting(walk.clip, on_host=on_host), MapperConfig())
        map_sequence(walk.frames[:12], mapper, None)
        assert len(mapper.submaps) > 0


def test_what_fails_beside_the_network_is_not_lost(walk, monkeypatch):
    """Though the same, done again afterwards, would succeed."""
    honest = Refiner.look

    def look(self, chunk, config):
        if threading.current_thread() is not threading.main_thread():
            raise OSError("no room for the images")
        honest(self, chunk, config)

    monkeypatch.setattr(Refiner, "look", look)
    with pytest.raises(OSError, match="no room"):
        map_sequence(walk.frames[:12], Mapper(TruthPredictor(walk.clip), MapperConfig()), None)


def test_a_k_that_differs_in_its_last_digits_is_the_same_camera(walk, rng):
    """As cameras that focus tell it with every image."""
    mapper = Mapper(TruthPredictor(walk.clip), CONFIG)
    for frame in walk.frames[:30]:
        K = frame.K.copy()
        K[[0, 1], [0, 1]] *= 1 + 1e-4 * rng.normal()
        mapper.add_frame(replace(frame, K=K))
    mapper.flush()
    assert mapper.counters.interruptions == 0 and mapper.counters.components == 1
