"""Loops and relocalisation judged on a walk that goes there and back."""

from dataclasses import replace

import numpy as np
import pytest

from scal3r_ros.evaluation import loops
from scal3r_ros.evaluation.loops import evaluate_loops, evaluate_relocalisation
from scal3r_ros.mapping.loop_closure import LoopDetector
from scal3r_ros.mapping.places import Descriptors
from scal3r_ros.mapping.shelf import Shelf
from test.evaluation.conftest import sequence_folder
from test.mapping.test_loops import CONFIG, Describing


@pytest.fixture(scope="module")
def folder(there_and_back, tmp_path_factory):
    return sequence_folder(there_and_back, tmp_path_factory.mktemp("back"))


def test_true_loops_are_counted_as_true(folder, there_and_back):
    found = evaluate_loops(folder, Describing(there_and_back.clip), CONFIG, 0.5)
    assert found["chunks that come back"] >= 1
    assert found["loops"] == found["loops true"] >= 1
    assert 1 <= found["chunks tied"] <= found["chunks that come back"]
    turn, apart = found["median error deg, m"]
    assert turn < 2 and apart < 0.1


def test_the_nearest_place_is_right_or_wrong():
    """Four places, then all but the second again; the third is taken for the first one."""
    places = Descriptors(Shelf(""))
    for k in (0, 1, 2, 3, 0, 0, 3):
        places.append(np.eye(4)[k])
    same = np.array([[a == b for b in (0, 1, 2, 3, 0, 2, 3)] for a in (0, 1, 2, 3, 0, 2, 3)])
    late = np.subtract.outer(np.arange(7), np.arange(7)) >= 3
    assert loops._nearest_true(places, same, late) == pytest.approx(2 / 3, abs=1e-3)
    assert loops._nearest_true(places, same & False, late) == 0.0


def test_a_loop_that_is_off_is_counted_as_false(folder, there_and_back, monkeypatch):
    """The same loops, measured a quarter turn off."""
    honest = LoopDetector.verify

    def turned(self, *arguments):
        edge = honest(self, *arguments)
        if edge is None:
            return None
        T = edge.T_target_source
        quarter = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
        return replace(edge, T_target_source=replace(T, R=T.R @ quarter))

    monkeypatch.setattr(LoopDetector, "verify", turned)
    found = evaluate_loops(folder, Describing(there_and_back.clip), CONFIG, 0.5)
    assert found["loops true"] == found["chunks tied"] == 0
    assert found["candidates true"] >= 1  # the places are the same all the same


def test_a_dropped_camera_is_recognised_where_the_map_was_seen(
    folder,
    there_and_back,
    monkeypatch,
):
    """The way there is mapped; of the way back every drop lies in the map, and who says that it
    knows the place is right."""
    monkeypatch.setattr(loops, "MAPPED", 0.55)
    short = replace(CONFIG, chunks=replace(CONFIG.chunks, size=8, overlap=4, first_size=8))
    found = evaluate_relocalisation(folder, Describing(there_and_back.clip), short, 0.5)
    assert found["dropped"] == found["in the map"] >= 1
    assert found["recognised"] == found["rightly"] >= 1
    turn, apart = found["median error deg, m"]
    assert turn < 2 and apart < 0.1


class Both(Describing):
    """Knows the mapped walk's images, and those after them, which are of another."""

    elsewhere: object = None

    def predict(self, chunk, memory, *, write=True):
        first = len(self.clip.images)
        if chunk.frames[0].index < first:
            return super().predict(chunk, memory, write=write)
        frames = tuple(replace(f, index=f.index - first) for f in chunk.frames)
        return Describing(self.elsewhere).predict(replace(chunk, frames=frames), memory)


def test_who_is_recognised_elsewhere_is_counted(folder, there_and_back, walk_folder, walk):
    """Strangers are not recognised; the same walk, as if it were another place, is. (By features:
    the network of this test cannot see two walks at once.)"""
    short = replace(
        CONFIG,
        chunks=replace(CONFIG.chunks, size=8, overlap=4, first_size=8),
        loops=replace(CONFIG.loops, bridges_per_chunk=0),
    )
    network = Both(there_and_back.clip)
    for strangers, clip, known in (
        (walk_folder, walk.clip, False),
        (folder, there_and_back.clip, True),
    ):
        network.elsewhere = clip
        found = loops.evaluate_strangers(folder, strangers, network, short)
        assert found["dropped"] >= 2
        assert (found["recognised"] > 0) == known
