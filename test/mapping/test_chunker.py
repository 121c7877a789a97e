"""No keyframe is lost, whatever the length of the run and of the window."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scal3r_ros.mapping.chunker import Chunker
from scal3r_ros.mapping.config import ChunkConfig
from scal3r_ros.mapping.types import Frame

IMAGE = np.zeros((2, 2, 3), np.uint8)


def run(config: ChunkConfig, count: int) -> list[tuple[int, list[int]]]:
    """(overlap, frame indices) of every chunk of a run."""
    chunker = Chunker(config)
    chunks = [chunker.add(Frame(i, i, IMAGE)) for i in range(count)] + [chunker.flush()]
    return [(c.overlap, [f.index for f in c.frames]) for c in chunks if c]


@given(st.integers(2, 20), st.data(), st.integers(1, 90))
def test_every_keyframe_is_mapped_once_and_chunks_overlap(size, data, count):
    overlap = data.draw(st.integers(1, size - 1))
    first = data.draw(st.integers(2, size))
    chunks = run(ChunkConfig(size, overlap, first), count)
    new = [i for shared, frames in chunks for i in frames[shared:]]
    assert new == list(range(count))
    for (_, before), (shared, frames) in itertools.pairwise(chunks):
        assert shared == min(overlap, len(before))
        assert frames[:shared] == before[len(before) - shared :]
    assert all(len(frames) <= size for _, frames in chunks)


def test_window_16_stride_8_by_hand():
    chunks = run(ChunkConfig(16, 8, 8), 27)
    assert [(s, f[0], f[-1]) for s, f in chunks] == [(0, 0, 7), (8, 0, 15), (8, 8, 23), (8, 16, 26)]


def test_after_a_cut_nothing_is_shared():
    chunker = Chunker(ChunkConfig(4, 2, 2))
    for i in range(2):
        chunk = chunker.add(Frame(i, i, IMAGE))
    assert chunk is not None
    chunker.cut()
    chunker.add(Frame(2, 2, IMAGE))
    chunk = chunker.add(Frame(3, 3, IMAGE))
    assert (chunk.overlap, [f.index for f in chunk.frames]) == (0, [2, 3])
