"""A stored memory goes on as if the run had never stopped."""

import pytest
import torch

from scal3r_ros.network.aggregator import MemoryPolicy
from scal3r_ros.network.checkpoint import CheckpointError
from scal3r_ros.network.memory_file import load_context, save_context
from scal3r_ros.network.scal3r import Scal3R
from test.network.test_scal3r import TINY, chunk


@pytest.fixture(scope="module")
def network() -> Scal3R:
    torch.manual_seed(0)
    return Scal3R(TINY).eval().requires_grad_(False)


@pytest.mark.parametrize("window", [0, 2])
def test_stored_and_resumed_is_the_same_as_going_on(tmp_path, network, window):
    policy, context = MemoryPolicy(window=window), None
    for seed in (1, 2):
        _, context = network([chunk(2, seed=seed)], context, policy)
    save_context(tmp_path / "memory.safetensors", context, network)
    resumed = load_context(tmp_path / "memory.safetensors", network)
    assert (resumed.chunks, len(resumed.recent)) == (2, window)
    expected, after = network([chunk(2, seed=3)], context, policy)
    again, after_resumed = network([chunk(2, seed=3)], resumed, policy)
    assert torch.equal(expected[0].depth, again[0].depth)
    assert torch.equal(after.gradients[1].down, after_resumed.gradients[1].down)


def test_a_window_of_one_chunk_is_stored_too(tmp_path, network):
    _, context = network([chunk(2)], None, MemoryPolicy(window=2))
    save_context(tmp_path / "memory.safetensors", context, network)
    resumed = load_context(tmp_path / "memory.safetensors", network)
    assert torch.equal(resumed.recent[0][1].down, context.gradients[1].down)


def test_a_memory_without_a_window_goes_on_with_one(tmp_path, network):
    """All that was written before counts as one write."""
    context = None
    for seed in (1, 2):
        _, context = network([chunk(2, seed=seed)], context, MemoryPolicy())
    expected, _ = network([chunk(2, seed=3)], context, MemoryPolicy())
    windowed, after = network([chunk(2, seed=3)], context, MemoryPolicy(window=2))
    assert torch.equal(windowed[0].depth, expected[0].depth)
    _, later = network([chunk(2, seed=4)], after, MemoryPolicy(window=2))
    assert len(later.recent) == 2  # and is forgotten as one


def test_a_memory_of_other_weights_is_refused(tmp_path, network):
    _, context = network([chunk(2)], None, MemoryPolicy())
    save_context(tmp_path / "memory.safetensors", context, network)
    torch.manual_seed(1)
    with pytest.raises(CheckpointError, match="a network with other weights"):
        load_context(tmp_path / "memory.safetensors", Scal3R(TINY))


def test_another_file_is_refused(tmp_path, network):
    (tmp_path / "memory.safetensors").write_bytes(b"not a memory")
    with pytest.raises(CheckpointError, match=r"memory.safetensors cannot be read"):
        load_context(tmp_path / "memory.safetensors", network)
