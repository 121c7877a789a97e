"""No keyframe is lost, whatever the length of the run and of the window."""

import itertools

import numpy as np
import pytest
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


@given(st.integers(6, 40), st.integers(4, 20), st.data())
def test_a_chunk_that_does_not_fit_goes_out_in_parts_that_overlap(size, fits, data):
    """No keyframe is lost, no part is too long, and later chunks are as short."""
    overlap = data.draw(st.integers(1, size - 1))
    chunker = Chunker(ChunkConfig(size, overlap, size))
    stream = iter([Frame(i, i, IMAGE) for i in range(3 * size)])
    before = [next(c for f in stream if (c := chunker.add(f))) for _ in range(2)]
    last = before.pop()
    if fits >= len(last.frames):
        return
    rest = chunker.split(last, fits)
    rest += [c for f in stream if (c := chunker.add(f))]
    rest += [c] if (c := chunker.flush()) else []
    assert all(len(c.frames) <= fits for c in rest)
    new = [f.index for c in before + rest for f in c.frames[c.overlap :]]
    assert new == list(range(3 * size))
    for one, two in itertools.pairwise(rest):
        shared = [f.index for f in two.frames[: two.overlap]]
        assert len(shared) == min(overlap, fits // 2, len(one.frames))
        assert shared == [f.index for f in one.frames[-len(shared) :]]
    assert [c.index for c in rest] == list(range(last.index, last.index + len(rest)))


def test_too_few_that_fit_are_refused():
    chunker = Chunker(ChunkConfig(8, 4, 8))
    chunk = next(c for i in range(8) if (c := chunker.add(Frame(i, i, IMAGE))))
    with pytest.raises(ValueError, match="at least 4 keyframes, only 3 fit"):
        chunker.split(chunk, 3)
