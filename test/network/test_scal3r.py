"""The whole network: schedules agree, official outputs are met, odd sizes pass."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from scal3r_ros.network.aggregator import MemoryPolicy
from scal3r_ros.network.checkpoint import from_official, load_weights
from scal3r_ros.network.scal3r import ChunkImages, Scal3R, Scal3RConfig

PARITY = Path(__file__).parents[3] / "shared" / "parity"

TINY = replace(
    Scal3RConfig.nano(),
    dim=64,
    heads=2,
    encoder_dim=64,
    encoder_depth=1,
    depth=2,
    memory_layers=(0, 1),
    taps=(0, 0, 1, 1),
    camera_depth=1,
    camera_heads=2,
    head_features=16,
    head_channels=(8, 8, 8, 8),
    head_hidden=8,
)
PARITY_SIZE = replace(
    Scal3RConfig.scal3r(),
    dim=128,
    heads=2,
    encoder_dim=128,
    encoder_depth=3,
    depth=8,
    memory_layers=(4, 5, 6, 7),
    taps=(1, 3, 5, 7),
    camera_depth=2,
    camera_heads=4,
    head_features=32,
    head_channels=(16, 24, 32, 40),
)


@pytest.fixture(scope="module")
def model() -> Scal3R:
    torch.manual_seed(0)
    config = replace(TINY, taps=(0, 1, 0, 1))
    return Scal3R(replace(config, taps=(0, 1, 2, 3), depth=4)).eval()


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
def test_memory_is_constant_in_size(model):
    context = None
    for seed in range(5):
        _, context = model([chunk(2, seed=seed)], context, MemoryPolicy())
    assert context is not None and len(context.gradients) == 2
    assert context.gradients[0].gate.shape == (1, 64, 256)


@torch.no_grad()
@pytest.mark.parametrize(
    ("frames", "height", "width"), [(1, 28, 28), (2, 14, 56), (5, 56, 14), (9, 28, 42)]
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


@torch.no_grad()
@pytest.mark.skipif(not PARITY.is_dir(), reason="the official reference numbers are not here")
def test_outputs_equal_the_official_network():
    model = Scal3R(PARITY_SIZE).eval()
    load_weights(model, from_official(load_file(PARITY / "weights.safetensors"), model))
    inputs, expected = (load_file(PARITY / f"{n}.safetensors") for n in ("inputs", "outputs"))
    chunks = []
    for index in range(2):
        height, width = inputs[f"c{index}.HW"].tolist()
        pixels = inputs[f"c{index}.rgb"].reshape(1, 4, height, width, 3)
        chunks.append(ChunkImages(pixels.permute(0, 1, 4, 2, 3), reference=0))
    outputs, _ = model(chunks, None, MemoryPolicy(), with_points=True)
    for index, output in enumerate(outputs):
        pairs = {
            "cam_map": output.encodings[-1],
            "dpt_map": output.depth.reshape(1, 4, -1, 1),
            "dpt_cnf": output.confidence.reshape(1, 4, -1, 1),
            "xyz_map": output.points.reshape(1, 4, -1, 3),
        }
        for name, ours in pairs.items():
            truth = expected[f"offline.c{index}.{name}"]
            assert (ours - truth).abs().max() < 1e-4 * truth.abs().max(), name
