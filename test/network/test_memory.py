"""The memory: closed forms against autograd, sums against the whole."""

from dataclasses import replace

import pytest
import torch

from scal3r_ros.network import memory
from scal3r_ros.network.memory import (
    FastWeights,
    MemoryTokens,
    accumulate,
    gradient,
    orthogonalise,
    step,
)
from scal3r_ros.network.scal3r import ChunkImages, Scal3R, Scal3RConfig

DIM, HIDDEN, TOKENS = 8, 16, 30


@pytest.fixture
def tokens() -> MemoryTokens:
    torch.manual_seed(1)
    k, v = torch.randn(2, 1, TOKENS, DIM, dtype=torch.float64).unbind(0)
    return MemoryTokens(k, v, torch.rand(1, TOKENS, 3, dtype=torch.float64))


@pytest.fixture
def weights() -> FastWeights:
    torch.manual_seed(2)
    make = torch.randn
    return FastWeights(
        make(1, DIM, HIDDEN, dtype=torch.float64),
        make(1, DIM, HIDDEN, dtype=torch.float64),
        make(1, HIDDEN, DIM, dtype=torch.float64),
    )


def part(tokens: MemoryTokens, rows: slice) -> MemoryTokens:
    return MemoryTokens(*(getattr(tokens, n)[:, rows] for n in ("k", "v", "rate")))


def test_gradient_equals_autograd_matrix_by_matrix(weights, tokens):
    closed = gradient(weights, tokens)
    for name, rate in (("gate", 0), ("down", 1), ("up", 2)):
        leaf = weights.map(lambda w: w.clone().requires_grad_())
        weighted = tokens.rate[..., rate : rate + 1] * leaf(tokens.k) * tokens.v
        expected = torch.autograd.grad(weighted.sum(), getattr(leaf, name))[0]
        torch.testing.assert_close(getattr(closed, name), expected)


def test_gradients_of_parts_add_up_to_the_whole(weights, tokens):
    whole = gradient(weights, tokens)
    parts = [gradient(weights, part(tokens, rows)) for rows in (slice(0, 11), slice(11, None))]
    total = accumulate(None, parts, 1.0)
    for name in ("gate", "up", "down"):
        torch.testing.assert_close(getattr(total, name), getattr(whole, name))


def test_tokens_at_a_time_change_nothing(weights, tokens, monkeypatch):
    whole, read = gradient(weights, tokens), weights(tokens.k)
    monkeypatch.setattr(memory, "ROWS", 7)
    for name in ("gate", "up", "down"):
        torch.testing.assert_close(getattr(gradient(weights, tokens), name), getattr(whole, name))
    torch.testing.assert_close(weights(tokens.k), read)


def test_forgetting_scales_only_the_past(weights, tokens):
    g = gradient(weights, tokens)
    total = accumulate(g, [g], 0.5)
    torch.testing.assert_close(total.up, 1.5 * g.up)


@pytest.mark.parametrize("overlap", [1, 3])
def test_frames_counted_before_leave_no_trace(overlap, monkeypatch):
    torch.manual_seed(3)
    config = replace(Scal3RConfig.nano(), memory_layers=(0,))
    network, images = Scal3R(config), torch.rand(1, 3, 3, 28, 42)
    unit, written = network.aggregator.memories["0"], []
    make = unit.tokens
    monkeypatch.setattr(unit, "tokens", lambda *of: written.append(make(*of)) or written[-1])
    with torch.no_grad():
        network([ChunkImages(images, 0)])
        context = network([ChunkImages(images, 0, overlap)])[1]
        alone = gradient(unit.weights, part(written[0], slice(6 * overlap, None)))
    torch.testing.assert_close(context.gradients[0].gate, alone.gate)
    torch.testing.assert_close(context.gradients[0].down, alone.down)


@pytest.mark.parametrize("shape", [(1, 6, 20), (1, 20, 6), (3, 8, 8)])
def test_orthogonalise_brings_singular_values_near_one(shape):
    torch.manual_seed(4)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(*shape)))
    assert values.min() > 0.4
    assert values.max() < 1.4


def test_step_keeps_the_norm_of_every_output_unit_and_ignores_the_gradients_scale(weights, tokens):
    g = gradient(weights, tokens)
    moved = step(weights, g)
    for name in ("gate", "up", "down"):
        before, after = getattr(weights, name), getattr(moved, name)
        torch.testing.assert_close(after.norm(dim=1), before.norm(dim=1), rtol=1e-4, atol=0)
        assert not torch.allclose(after, before, rtol=1e-2)
    scaled = step(weights, g.map(lambda m: 1000 * m))
    torch.testing.assert_close(scaled.gate, moved.gate, rtol=1e-3, atol=1e-5)


def test_a_step_makes_the_memory_recall_its_values_better(weights, tokens):
    def recall(w: FastWeights) -> float:
        return float((w(tokens.k) * tokens.v).sum())

    assert recall(step(weights, gradient(weights, tokens))) > recall(weights)
