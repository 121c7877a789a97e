"""Loops are believed only where many features of several images agree."""

from dataclasses import replace

import numpy as np

from scal3r_ros.geometry.sim3 import Sim3, invert_pose
from scal3r_ros.mapping import loop_closure, place_match
from scal3r_ros.mapping.config import KeyframeConfig, LoopConfig, MapperConfig, RefinementConfig
from scal3r_ros.mapping.mapper import Mapper
from scal3r_ros.mapping.pipeline import map_sequence
from scal3r_ros.mapping.place_match import FINE, ROUGH, PlaceMatch, match_places, view_of
from scal3r_ros.mapping.types import Frame
from test.conftest import TruthPredictor

CONFIG = MapperConfig(
    keyframes=KeyframeConfig(min_flow=0.0, standstill_flow=0.0),
    refinement=RefinementConfig(enabled=False),
    loops=LoopConfig(min_gap=20),
)


class Describing(TruthPredictor):
    """Descriptors that know the place: keyframes i and 54 - i are one."""

    def predict(self, chunk, memory, *, write=True):
        prediction, memory = super().predict(chunk, memory, write=write)
        rows = [min(f.index, 54 - f.index) for f in chunk.frames]
        return replace(prediction, descriptors=np.eye(64, dtype=np.float32)[rows]), memory


def test_places_seen_again_are_closed_and_right(there_and_back):
    mapper = Mapper(Describing(there_and_back.clip), CONFIG)
    map_sequence(there_and_back.frames, mapper, None)
    loops = [e for e in mapper.graph.edges if e.kind == "loop"]
    assert loops
    assert not mapper.loop_detector._views, "images of a chunk's candidates outlast it"
    for edge in loops:
        old, new = (mapper.submaps[i] for i in (edge.target, edge.source))
        T = [there_and_back.T_world_cam[s.frame_indices[0]] for s in (old, new)]
        T_old_new = (
            old.T_submap_cam[0] @ invert_pose(T[0]) @ T[1] @ invert_pose(new.T_submap_cam[0])
        )
        turned = edge.T_target_source.R.T @ T_old_new[:3, :3]
        assert np.degrees(np.arccos(np.clip((np.trace(turned) - 1) / 2, -1, 1))) < 2.0


def test_candidates_that_look_alike_to_the_descriptor_alone_are_refused(walk, monkeypatch):
    """Descriptors that lie: all places look like the first."""

    class Lying(TruthPredictor):
        def predict(self, chunk, memory, *, write=True):
            prediction, memory = super().predict(chunk, memory, write=write)
            rows = [f.index % 5 for f in chunk.frames]
            return replace(prediction, descriptors=np.eye(64, dtype=np.float32)[rows]), memory

    # two different rooms, one after the other
    import torch

    from scal3r_ros.training.world import WorldClip, render_clip

    clips = [render_clip(seed, 28, 112, 154, family="room", degradation="none") for seed in (3, 8)]
    joined = WorldClip(
        *(
            torch.cat([getattr(c, name) for c in clips])
            for name in ("images", "depth", "K", "T_world_cam")
        ),
        "room",
    )
    frames = [
        Frame(i, 10**9 + i * 10**8, image.numpy(), joined.K[i].double().numpy())
        for i, image in enumerate(joined.images)
    ]
    mapper, looked_at = Mapper(Lying(joined), CONFIG), []
    look = place_match.view_of
    monkeypatch.setattr(loop_closure, "view_of", lambda *of: looked_at.append(of[-1]) or look(*of))
    map_sequence(frames, mapper, None)
    assert mapper.counters.loops == 0
    assert mapper.counters.loops_refused > 0
    assert looked_at.count(ROUGH) > 2 * looked_at.count(FINE)  # small images tell it


def test_a_keyframe_of_two_submaps_is_seen_in_either(walk):
    """Whichever was asked for first: their frames and units differ."""
    mapper = Mapper(TruthPredictor(walk.clip), CONFIG)
    map_sequence(walk.frames[:20], mapper, None)
    first, second = mapper.submaps[:2]
    shared = len(first.frame_indices) - 1
    assert first.frame_indices[shared] in second.frame_indices
    views = [mapper.loop_detector._view(shared, submap) for submap in (first, second)]
    assert [view.submap for view in views] == [first.index, second.index]
    assert not np.allclose(views[0].depth, views[1].depth)


def test_features_without_depth_do_not_count_in_how_far_places_may_lie_apart(walk):
    mapper = Mapper(TruthPredictor(walk.clip), CONFIG)
    map_sequence(walk.frames[:20], mapper, None)
    old = view_of(walk.frames[0].image, mapper.submaps[0], 0)
    far = np.array([CONFIG.loops.agree_depth * np.median(old.depth) * 0.7, 0, 0])
    pair = [
        PlaceMatch(Sim3(np.eye(3), t, 1.0), inliers=30, share=1.0, coverage=1.0, log_spread=0.1)
        for t in (np.zeros(3), far)
    ]
    seldom = np.where(np.arange(len(old.depth)) % 3 == 0, old.depth, 0.0)
    for depth in (old.depth, seldom):
        assert mapper.loop_detector._agree(*pair, replace(old, depth=depth))


def test_no_features_no_match(walk):
    mapper = Mapper(TruthPredictor(walk.clip), CONFIG)
    map_sequence(walk.frames[:20], mapper, None)
    grey = np.full((112, 154, 3), 128, np.uint8)
    blank = view_of(grey, mapper.submaps[0], 0)
    real = view_of(walk.frames[0].image, mapper.submaps[0], 0)
    assert match_places(blank, real, 20) is None
    assert match_places(real, blank, 20) is None
