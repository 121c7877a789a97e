"""A map that is saved, for the tests of what is done with one."""

import pytest

from scal3r_ros.mapping.config import KeyframeConfig, LoopConfig, MapperConfig, RefinementConfig
from scal3r_ros.mapping.map_folder import read_map, restore, save_map
from scal3r_ros.mapping.mapper import Mapper
from scal3r_ros.mapping.pipeline import map_sequence
from test.mapping.test_loops import Describing

CONFIG = MapperConfig(
    keyframes=KeyframeConfig(min_flow=0.0, standstill_flow=0.0),
    refinement=RefinementConfig(enabled=False),
    loops=LoopConfig(min_gap=20),
)


@pytest.fixture(scope="module")
def mapped(there_and_back):
    """The way there, 28 images."""
    mapper = Mapper(Describing(there_and_back.clip), CONFIG)
    map_sequence(there_and_back.frames[:28], mapper, None)
    return mapper


@pytest.fixture
def folder(mapped, tmp_path):
    save_map(tmp_path / "maps" / "office", mapped)
    return tmp_path / "maps" / "office"


def loaded(folder, world, **options) -> Mapper:
    mapper = Mapper(Describing(world.clip), CONFIG)
    restore(mapper, read_map(folder), **options)
    return mapper
