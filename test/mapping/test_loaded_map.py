"""With a loaded map mapping goes on, a camera is localised in it, another map is merged."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from scal3r_ros.mapping.map_folder import read_map, restore, save_map
from scal3r_ros.mapping.mapper import Mapper
from scal3r_ros.mapping.pipeline import map_sequence
from scal3r_ros.mapping.scale_sources import Observation
from test.conftest import TruthPredictor
from test.mapping.conftest import CONFIG, loaded
from test.mapping.test_loops import Describing


def test_mapping_goes_on_and_joins_where_a_place_is_recognised(folder, there_and_back):
    again = loaded(folder, there_and_back)
    stored = len(again.submaps)
    for frame in there_and_back.frames[28:]:  # the way back: other images of the same places
        again.add_frame(frame)
    again.flush()
    assert again.counters.loops > 0
    assert again.graph.piece(len(again.submaps) - 1) == 0  # one map again
    truth = there_and_back.T_world_cam
    first = again.submaps[0]
    offset = -first.frame_indices[0]  # loaded frames have negative numbers
    T_map_world = first.T_map_submap.apply_pose(first.T_submap_cam[0]) @ np.linalg.inv(
        truth[first.frame_indices[0] + offset]
    )
    length = np.linalg.norm(np.diff(truth[:28, :3, 3], axis=0), axis=1).sum()
    for submap in again.submaps[stored:]:
        for slot, index in enumerate(submap.frame_indices):
            T = submap.T_map_submap.apply_pose(submap.T_submap_cam[slot])
            expected = (T_map_world @ truth[index])[:3, 3]
            assert np.linalg.norm(T[:3, 3] - expected) < 0.05 * length


def test_localisation_finds_the_camera_and_leaves_the_map_alone(folder, there_and_back):
    again = loaded(folder, there_and_back)
    again.localising = True
    stored, points = len(again.submaps), len(again.point_map.cloud())
    updates = [u for frame in there_and_back.frames[28:] for u in again.add_frame(frame)]
    assert updates
    assert not any(u.kept for u in updates)
    assert again.localiser.recognised > 0
    assert (len(again.submaps), len(again.point_map.cloud())) == (stored, points)
    truth = there_and_back.T_world_cam
    first = again.submaps[0]
    T_map_world = first.T_map_submap.apply_pose(first.T_submap_cam[0]) @ np.linalg.inv(truth[0])
    newest = updates[-1].submap
    T = newest.T_map_submap.apply_pose(newest.T_submap_cam[-1])
    expected = T_map_world @ truth[newest.frame_indices[-1]]
    assert np.linalg.norm(T[:3, 3] - expected[:3, 3]) < 0.1 * np.ptp(truth[:28, :3, 3])


@pytest.mark.parametrize("localising", [True, False])
def test_keyframes_that_wait_while_the_mode_changes_keep_their_submap(
    folder,
    there_and_back,
    localising,
):
    """The flushed chunk is of the old mode: its image goes with its own depth and pose."""
    again = loaded(folder, there_and_back)
    again.localising = not localising
    for frame in there_and_back.frames[28:40]:
        again.add_frame(frame)
    updates = again.set_localising(localising)
    newest, submap = again.newest_keyframe(), updates[-1].submap
    assert updates[-1].kept == localising and newest.index == submap.frame_indices[-1] == 39
    T_map_cam = submap.T_map_submap.apply_pose(submap.T_submap_cam[-1])
    np.testing.assert_allclose(newest.T_map_cam, T_map_cam)
    depth = submap.depth[-1].astype(np.float64) * submap.T_map_submap.s
    np.testing.assert_allclose(newest.depth, depth, rtol=1e-6)


def test_another_place_is_not_recognised(folder, walk):
    again = Mapper(TruthPredictor(walk.clip), CONFIG)
    restore(again, read_map(folder))
    again.localising = True
    assert [u for frame in walk.frames[:30] for u in again.add_frame(frame)] == []
    assert "not recognised" in again.trouble


def test_with_merge_what_was_mapped_stays_and_mapping_goes_on(folder, there_and_back):
    mapper = Mapper(Describing(there_and_back.clip), CONFIG)
    frames = there_and_back.frames[28:]
    for frame in frames[:12]:
        mapper.add_frame(frame)
    present = len(mapper.submaps)
    restore(mapper, read_map(folder), merge=True)
    assert len(mapper.submaps) == read_map(folder).facts["submaps"] + present
    for frame in frames[12:]:
        mapper.add_frame(frame)
    assert mapper.counters.loops > 0
    assert len({mapper.graph.piece(s.index) for s in mapper.submaps}) == 1


def test_no_image_of_one_map_is_taken_for_one_of_another(folder, there_and_back):
    again = loaded(folder, there_and_back)
    for frame in there_and_back.frames[28:44]:
        again.add_frame(frame)
    for _ in range(2):
        restore(again, read_map(folder), merge=True)
    ends = [0, *np.cumsum([read_map(folder).facts["submaps"]] * 3), len(again.submaps)]
    images = [
        {i for submap in again.submaps[a:b] for i in submap.frame_indices}
        for a, b in itertools.pairwise(ends)
    ]
    assert len(images) == 4 and len(set.union(*images)) == sum(map(len, images))
    assert min(images[-1]) >= 0 > max(set.union(*images[:-1]))
    kept = [k.frame.index for k in again.loop_detector.keyframes]
    assert len(set(kept)) == len(kept)


@pytest.mark.parametrize("stored", [False, True])
def test_metres_and_another_unit_are_not_merged(folder, there_and_back, stored):
    """A later change of unit would be wrong for one of the two."""
    mapper = Mapper(Describing(there_and_back.clip), CONFIG)
    same, other = (replace(read_map(folder), facts={"metric": m}) for m in (stored, not stored))
    for _ in range(2):  # at first nothing is mapped
        restore(mapper, same, merge=True)
    assert mapper.metric.metric == stored and not mapper.metric.estimator.told
    before = {**vars(mapper)}
    with pytest.raises(ValueError, match="cannot be merged"):
        restore(mapper, other, merge=True)
    assert vars(mapper) == before


@pytest.mark.parametrize("merge", [False, True])
def test_a_map_that_is_refused_leaves_what_was_mapped(tmp_path, there_and_back, merge):
    class Particular(Describing):
        """Its memory is that of its own weights alone."""

        def save_memory(self, path, memory):
            path.write_text(str(memory))

        def load_memory(self, path):
            raise ValueError(f"{path} was written by a network with other weights")

    mapper = Mapper(Particular(there_and_back.clip), CONFIG)
    map_sequence(there_and_back.frames[:20], mapper, None)
    save_map(tmp_path / "office", mapper)
    before = {**vars(mapper)}
    with pytest.raises(ValueError, match="other weights"):
        restore(mapper, read_map(tmp_path / "office"), merge=merge)
    assert vars(mapper) == before and mapper.submaps


def test_pieces_that_a_loop_has_joined_are_loaded_as_one(folder, there_and_back, tmp_path):
    """Joined by a later submap of the younger piece, not by the one that it begins with."""
    again = loaded(folder, there_and_back)
    stored = len(again.submaps)
    short = replace(CONFIG.chunks, size=8, overlap=4, first_size=8)
    again.stream.chunker.config = short
    again.config = replace(CONFIG, loops=replace(CONFIG.loops, enabled=False))
    for frame in there_and_back.frames[28:]:
        again.add_frame(frame)
        if len(again.submaps) > stored:
            again.config = CONFIG
    again.flush()
    loops = [edge for edge in again.graph.edges if edge.kind == "loop"]
    assert loops and min(edge.source for edge in loops) > stored
    assert again.graph.gauges == [0]
    save_map(tmp_path / "joined", again)
    third = loaded(tmp_path / "joined", there_and_back)
    assert third.graph.gauges == [0]
    assert {third.graph.piece(s.index) for s in third.submaps} == {0}
    for index, T in again.graph.poses.items():
        np.testing.assert_allclose(third.graph.poses[index].as_matrix(), T.as_matrix(), atol=5e-3)


def test_a_reset_ends_localisation_so_that_a_new_map_can_grow(folder, there_and_back):
    again = loaded(folder, there_and_back)
    again.localising = True
    again.reset()
    for frame in there_and_back.frames[:12]:
        again.add_frame(frame)
    assert again.submaps


def test_a_told_place_is_believed_until_the_map_is_recognised(folder, walk):
    again = Mapper(TruthPredictor(walk.clip), CONFIG)  # knows no place of that map
    restore(again, read_map(folder))
    again.localising = True
    told = np.eye(4)
    told[:3, :3] = Rotation.from_rotvec([0.3, -0.5, 1.1]).as_matrix()
    told[:3, 3] = 1.0, 2.0, 3.0
    again.start = told
    updates = [u for frame in walk.frames[:30] for u in again.add_frame(frame)]
    assert len(updates) > 1
    first = updates[0].submap
    placed = first.T_map_submap.apply_pose(first.T_submap_cam[0])
    np.testing.assert_allclose(placed, told, atol=1e-9)
    assert again.localiser.recognised == 0


@pytest.mark.parametrize("told", [True, False])
def test_a_camera_that_is_localised_follows_the_unit_of_the_map(folder, walk, told):
    """Told where it begins in the old unit, or already on its way."""
    pairs = []
    for factor in (1.0, 2.5):
        again = Mapper(TruthPredictor(walk.clip), CONFIG)  # knows no place of that map
        restore(again, read_map(folder))
        again.localising = True
        again.start = np.eye(4)
        again.start[:3, 3] = 1.0, 2.0, 3.0
        before = 0 if told else 16
        for frame in walk.frames[:before]:
            again.add_frame(frame)
        again.set_scale(factor)
        newest = [u for frame in walk.frames[before:30] for u in again.add_frame(frame)][-1].submap
        pairs.append((newest.T_map_submap.t, newest.T_map_submap.s))
    (t, s), (t_after, s_after) = pairs
    np.testing.assert_allclose(t_after, 2.5 * t, rtol=1e-9)
    assert s_after == pytest.approx(2.5 * s)


def test_mapping_goes_on_from_a_told_place(folder, walk):
    again = Mapper(TruthPredictor(walk.clip), CONFIG)
    stored = read_map(folder)
    restore(again, stored)
    again.start = np.eye(4)
    again.start[:3, 3] = 5.0, 0.0, 0.0
    updates = [u for frame in walk.frames[:16] for u in again.add_frame(frame)]
    first = updates[0].submap
    placed = first.T_map_submap.apply_pose(first.T_submap_cam[0])
    np.testing.assert_allclose(placed[:3, 3], [5.0, 0.0, 0.0], atol=1e-9)
    assert again.start is None
    assert len({again.graph.piece(s.index) for s in again.submaps}) == 2


def test_mapping_goes_on_where_the_camera_was_localised(folder, walk):
    again = Mapper(TruthPredictor(walk.clip), CONFIG)
    restore(again, read_map(folder))
    again.set_localising(True)
    again.start = np.eye(4)
    again.start[:3, 3] = 5.0, 0.0, 0.0
    updates = [u for frame in walk.frames[:20] for u in again.add_frame(frame)]
    here = [*updates, *again.set_localising(False)][-1].submap
    first = next(u for frame in walk.frames[20:40] for u in again.add_frame(frame)).submap
    placed = first.T_map_submap.apply_pose(first.T_submap_cam[0])
    np.testing.assert_allclose(placed, here.end, atol=1e-9)
    assert np.linalg.norm(here.end[:3, 3] - [5.0, 0.0, 0.0]) < 2.0


def test_what_was_measured_before_a_merge_counts_on(folder, there_and_back):
    mapper = Mapper(Describing(there_and_back.clip), CONFIG)
    for frame in there_and_back.frames[28:40]:
        mapper.add_frame(frame)
    before, refiner = mapper.metric, mapper.refiner
    before._seen[0] = Observation(2.0, 0.1)
    restore(mapper, read_map(folder), merge=True)
    assert mapper.refiner is refiner and mapper.metric.sources is before.sources
    shift = read_map(folder).facts["submaps"]
    assert mapper.metric._seen == {shift: Observation(2.0, 0.1)}
