"""What lies on disk reads as if it were in memory, and goes when nobody needs it."""

import gc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scal3r_ros.mapping.config import KeyframeConfig, MapperConfig, RefinementConfig, StorageConfig
from scal3r_ros.mapping.kept_keyframes import KeptKeyframes
from scal3r_ros.mapping.mapper import Mapper
from scal3r_ros.mapping.pipeline import map_sequence
from scal3r_ros.mapping.point_map import Cloud, Clouds
from scal3r_ros.mapping.shelf import Shelf
from scal3r_ros.mapping.types import BULKY, Frame
from test.conftest import TruthPredictor

CONFIG = MapperConfig(
    keyframes=KeyframeConfig(min_flow=0.0, standstill_flow=0.0),
    refinement=RefinementConfig(enabled=False),
)


def test_arrays_come_back_and_their_files_go_with_them(tmp_path, rng):
    shelf = Shelf(str(tmp_path))
    first, second = rng.normal(size=(3, 4)), rng.integers(0, 9, 5)
    stored = shelf.put(first=first, second=second)
    other = shelf.put(first=second)
    np.testing.assert_array_equal(stored["first"], first)
    np.testing.assert_array_equal(stored["second"], second)
    del stored
    gc.collect()
    assert len(list(shelf.path.iterdir())) == 1
    np.testing.assert_array_equal(other["first"], second)
    del shelf, other
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_a_map_on_disk_is_the_map_in_memory(walk, tmp_path):
    maps = []
    for kept in (0, 2):
        config = replace(CONFIG, storage=StorageConfig(kept, str(tmp_path)))
        mapper = Mapper(TruthPredictor(walk.clip), config)
        map_sequence(walk.frames, mapper, None)
        maps.append(mapper)
    whole, shelved = maps
    assert len(whole.submaps) > 3
    for a, b in zip(whole.submaps, shelved.submaps, strict=True):
        on_disk = b.index < len(shelved.submaps) - 2
        assert on_disk == ("depth" not in vars(b))
        for name in BULKY:
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    np.testing.assert_array_equal(whole.point_map.cloud().xyz, shelved.point_map.cloud().xyz)


def test_a_submap_has_no_other_names(walk):
    mapper = Mapper(TruthPredictor(walk.clip), CONFIG)
    map_sequence(walk.frames[:16], mapper, None)
    with pytest.raises(AttributeError, match="Submap has no weight"):
        _ = mapper.submaps[0].weight


def test_the_folder_of_an_ended_session_is_removed(walk, tmp_path):
    mapper = Mapper(
        TruthPredictor(walk.clip), replace(CONFIG, storage=StorageConfig(2, str(tmp_path)))
    )
    map_sequence(walk.frames, mapper, None)
    first = mapper.shelf.path
    assert list(first.iterdir())
    mapper.reset()
    gc.collect()
    assert not first.exists() and mapper.shelf.path.is_dir()


def test_a_full_disk_is_told_with_the_file(tmp_path, monkeypatch):
    def full(*_, **__) -> None:
        raise OSError("64353 requested and 51168 written")

    shelf = Shelf(str(tmp_path))
    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match=r"00000000.depth.npy cannot be written: 64353 requested"):
        shelf.put(depth=np.zeros(3))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc: Linux alone counts files")
def test_a_map_of_any_length_keeps_no_file_open(tmp_path):
    """A process may open a thousand files, as a rule; a long map has more submaps."""
    clouds, kept = Clouds(Shelf(str(tmp_path))), KeptKeyframes(Shelf(str(tmp_path)))
    one = Cloud(np.zeros((5, 3), np.float32), np.zeros((5, 3), np.uint8), np.ones(5, np.float32))
    for k in range(20):
        clouds[k] = one
        kept.append(Frame(k, k, np.zeros((8, 8, 3), np.uint8)), k)
    before = len(list(Path("/proc/self/fd").iterdir()))
    held = [*clouds.values(), *(keyframe.jpeg for keyframe in kept)]
    assert len(held) == 40
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1
