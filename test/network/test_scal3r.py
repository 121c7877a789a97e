"""The whole network: schedules agree, official outputs are met, odd sizes pass."""

import copy
import gc
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from scal3r_ros.network import layers
from scal3r_ros.network.acceleration import store
from scal3r_ros.network.aggregator import MemoryPolicy
from scal3r_ros.network.devices import inference
from scal3r_ros.network.layers import Attention, patch_positions, rotary_table, rotate
from scal3r_ros.network.scal3r import ChunkImages, Scal3R, Scal3RConfig

TINY = replace(
    Scal3RConfig.nano(),
    dim=64,
    heads=2,
    encoder_dim=64,
    encoder_depth=1,
    depth=4,
    memory_layers=(0, 1),
    taps=(0, 1, 2, 3),
    camera_depth=1,
    camera_heads=2,
    head_features=16,
    head_channels=(8, 8, 8, 8),
    head_hidden=8,
)


@pytest.fixture(scope="module")
def model() -> Scal3R:
    torch.manual_seed(0)
    return Scal3R(TINY).eval()


def chunk(frames: int, height: int = 28, width: int = 42, seed: int = 5, **options) -> ChunkImages:
    images = torch.rand(1, frames, 3, height, width, generator=torch.manual_seed(seed))
    return ChunkImages(images, reference=(frames + 1) // 2 - 1, **options)


@torch.no_grad()
def test_with_one_chunk_causal_equals_offline_bit_for_bit(model):
    one, two = chunk(3), chunk(3, seed=6)
    causal, context = model([one], None, MemoryPolicy())
    offline, _ = model([one, two], None, MemoryPolicy())
    alone, _ = model([one])
    assert torch.equal(causal[0].depth, alone[0].depth)
    assert context.chunks == 1
    assert not torch.equal(offline[0].depth, alone[0].depth)  # the second chunk reached the first


@torch.no_grad()
def test_the_summed_first_layer_gradient_of_a_causal_run_is_the_offline_one(model):
    one, two = chunk(3), chunk(3, seed=6)
    _, context = model([one], None, MemoryPolicy())
    _, context = model([two], context, MemoryPolicy())
    _, offline = model([one, two], None, MemoryPolicy())
    torch.testing.assert_close(context.gradients[0].up, offline.gradients[0].up)
    assert context.chunks == offline.chunks == 2


@torch.no_grad()
def test_a_reading_chunk_leaves_the_memory_as_it_was(model):
    _, context = model([chunk(3)], None, MemoryPolicy())
    outputs, after = model([chunk(2, seed=7)], context, MemoryPolicy(write=False))
    assert after is context
    assert torch.isfinite(outputs[0].depth).all()


@torch.no_grad()
def test_memory_is_flat_over_200_chunks(model):
    """The context's own size, and what the process holds in tensors."""

    def held() -> tuple[int, int]:
        gc.collect()
        tensors = [o for o in gc.get_objects() if isinstance(o, torch.Tensor)]
        return len(tensors), sum(t.untyped_storage().nbytes() for t in tensors)

    context, early = None, None
    for index in range(200):
        outputs, context = model([chunk(2, seed=index)], context, MemoryPolicy())
        assert torch.isfinite(outputs[0].depth).all()
        if index == 20:
            early = held()
    assert held() == early
    assert context is not None and context.chunks == 200
    assert [g.gate.shape for g in context.gradients] == 2 * [(1, 64, 256)]


@torch.no_grad()
def test_a_window_forgets_what_left_it(model):
    """Three chunks in a window of two: what is left is the last two, at the first memory layer."""
    policy, context = MemoryPolicy(window=2), None
    for seed in (1, 2, 3):
        _, context = model([chunk(2, seed=seed)], context, policy)
    _, first = model([chunk(2, seed=2)], None, policy)
    _, both = model([chunk(2, seed=3)], first, policy)
    assert (context.chunks, len(context.recent), len(both.recent)) == (3, 2, 2)
    torch.testing.assert_close(context.gradients[0].gate, both.gradients[0].gate)


@torch.no_grad()
def test_a_window_that_nothing_has_left_changes_nothing(model):
    wide = plain = None
    for seed in (1, 2, 3):
        a, wide = model([chunk(2, seed=seed)], wide, MemoryPolicy(window=5, forget=0.9))
        b, plain = model([chunk(2, seed=seed)], plain, MemoryPolicy(forget=0.9))
        torch.testing.assert_close(a[0].depth, b[0].depth)


@torch.no_grad()
def test_nan_in_is_nan_out_and_the_memory_before_is_untouched(model):
    _, context = model([chunk(2)], None, MemoryPolicy())
    before = context.gradients[0].gate.clone()
    broken = chunk(2)
    broken.images[0, 0, 0, 0, 0] = float("nan")
    outputs, _ = model([broken], context, MemoryPolicy())
    assert not torch.isfinite(outputs[0].encodings[-1]).any()
    assert torch.equal(context.gradients[0].gate, before)


@torch.no_grad()
def test_positions_turn_in_float32_where_blocks_run_in_half_precision(model, monkeypatch):
    seen, rotate = [], layers.rotate

    def listening(x: torch.Tensor, table: layers.RotaryTable) -> torch.Tensor:
        turned = rotate(x, table)
        seen.append(turned.dtype)
        return turned

    monkeypatch.setattr(layers, "rotate", listening)
    with inference(torch.device("cpu"), torch.bfloat16):
        model([chunk(2)])
    assert set(seen) == {torch.float32}


@torch.no_grad()
def test_blocks_stored_in_half_precision_give_what_autocast_gives(model):
    cpu, one = torch.device("cpu"), chunk(3)
    exact = model([one])[0][0].depth
    with inference(cpu, torch.bfloat16):
        rounded = model([one])[0][0]
        stored = copy.deepcopy(model).store_blocks(torch.bfloat16)
        again = stored([one])[0][0]
    assert torch.equal(rounded.depth, again.depth)
    assert rounded.depth.dtype == torch.float32
    assert 0 < float((rounded.depth / exact - 1).abs().median()) < 0.02
    assert stored.aggregator.memories["1"].qkv.weight.dtype == torch.float32


@torch.no_grad()
@pytest.mark.parametrize("design", [None, "A", "B", "C", "Z"])
def test_heads_in_bfloat16_say_nearly_the_same(design):
    """On a processor; their last layer stays float32: depth has more values than bfloat16 has."""
    torch.manual_seed(0)
    config = TINY if design is None else TINY.with_head("moe", design)
    cpu, one = torch.device("cpu"), chunk(2)
    model = Scal3R(config).eval()
    exact = model([one])[0][0]
    store(model, torch.bfloat16, cpu)
    with inference(cpu, torch.bfloat16):
        (rounded,), context = model([one])
    for name in ("depth", "confidence"):
        a, b = getattr(exact, name), getattr(rounded, name)
        assert b.dtype == torch.float32
        assert 0 < float((b / a - 1).abs().median()) < 0.02
    assert not torch.equal(rounded.depth, rounded.depth.bfloat16().float())
    halves = {p.dtype for p in model.depth_head.trunk.parameters()}
    assert halves == {torch.bfloat16}
    written = {part.dtype for g in context.gradients for part in (g.gate, g.up, g.down)}
    assert written == {torch.float32}  # orthogonalising amplifies rounding


@torch.no_grad()
def test_attention_ignores_padding_that_is_masked():
    """Fused attention on its own equals attention with a mask over tokens that are not there."""
    torch.manual_seed(0)
    attention = Attention(16, 2, normalise_qk=True).eval()
    x, table = torch.randn(1, 6, 16), rotary_table(patch_positions(2, 3, special=0), 8)
    expected = attention(x, table)
    q, k, v = attention.qkv(x).view(1, 6, 3, 2, 8).permute(2, 0, 3, 1, 4)
    q, k = rotate(attention.q_norm(q), table), rotate(attention.k_norm(k), table)
    k, v = (torch.cat([part, torch.full((1, 2, 4, 8), 9.0)], dim=2) for part in (k, v))
    mask = torch.arange(10) < 6
    out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[None, None, None])
    masked = attention.proj(out.transpose(1, 2).reshape(1, 6, 16))
    torch.testing.assert_close(masked, expected)


@torch.no_grad()
@pytest.mark.parametrize(
    ("frames", "height", "width"),
    [(1, 28, 28), (2, 14, 56), (5, 56, 14), (9, 28, 42), (33, 14, 28), (60, 28, 14)],
)
def test_any_number_of_frames_and_any_shape_passes(model, frames, height, width):
    outputs, _ = model([chunk(frames, height, width)])
    assert outputs[0].depth.shape == (1, frames, height, width)
    assert (outputs[0].depth > 0).all()
    assert outputs[0].encodings[-1].shape == (1, frames, 9)
    torch.testing.assert_close(outputs[0].descriptors.norm(dim=-1), torch.ones(1, frames))


def test_a_size_that_is_no_multiple_of_the_patch_is_refused(model):
    with pytest.raises(ValueError, match="multiple of 14, got 30 x 42"):
        model([chunk(2, height=30)])


@torch.no_grad()
def test_frames_that_are_not_the_reference_may_change_places(model):
    images = chunk(4).images
    out, _ = model([ChunkImages(images, 1)])
    swapped, _ = model([ChunkImages(images[:, [0, 1, 3, 2]], 1)])
    torch.testing.assert_close(out[0].depth[:, [0, 1, 3, 2]], swapped[0].depth, rtol=1e-4, atol=0)


@torch.no_grad()
def test_kept_patch_embeddings_change_nothing(model):
    one = chunk(3)
    kept = ChunkImages(one.images, one.reference, patches=model.encode(one.images))
    torch.testing.assert_close(model([one])[0][0].depth, model([kept])[0][0].depth)
