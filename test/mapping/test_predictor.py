"""The real network behind the mapper: memory on the device, unusable numbers, one transfer."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from scal3r_ros.mapping.config import NetworkConfig
from scal3r_ros.mapping.network_output import to_host
from scal3r_ros.mapping.predictor import NANO_MANY, NetworkPredictor
from scal3r_ros.mapping.types import Chunk, ChunkTooLargeError, Frame, PredictionError
from scal3r_ros.network.scal3r import Scal3R
from test.network.test_scal3r import TINY


@pytest.fixture
def predictor() -> NetworkPredictor:
    torch.manual_seed(0)
    return NetworkPredictor(Scal3R(TINY), device=torch.device("cpu"))


@pytest.fixture
def chunk(walk) -> Chunk:
    return Chunk(0, tuple(walk.frames[:4]), 0, 1)


def test_overlap_is_encoded_once_and_changes_nothing(predictor, walk, chunk):
    following = Chunk(1, tuple(walk.frames[2:6]), 2, 1)
    _, memory = predictor.predict(chunk, predictor.initial_memory())
    encoded = []
    predictor.model.aggregator.encoder.register_forward_hook(
        lambda module, inputs, output: encoded.append(len(output))
    )
    kept, _ = predictor.predict(following, memory)
    predictor._kept.clear()
    afresh, _ = predictor.predict(following, memory)
    assert encoded == [2, 4]
    np.testing.assert_allclose(kept.depth, afresh.depth, rtol=1e-4)


def test_what_the_network_does_not_see_has_no_depth_and_the_rest_lies_in_its_place(predictor):
    """An image of which the network sees the middle rows, as the full one does of 640x480: depth
    is of the whole image, and so is K, the camera's as well as the network's."""
    rng = np.random.default_rng(3)
    image = rng.integers(0, 255, (81, 112, 3), np.uint8)
    K = np.array([[200.0, 0, 60], [0, 200.0, 40], [0, 0, 1]])
    predictor.settings = NetworkConfig(image_width=112)
    crop = predictor.crop(Frame(0, 0, image))
    cut = [crop.offset[0], crop.resized[0] - crop.offset[0] - crop.size[0]]
    assert min(cut) > 0  # rows are lost above and below
    said = {}
    for name, known in (("camera", K), ("network", None)):
        frames = tuple(Frame(i, i, image, known) for i in range(2))
        said[name], _ = predictor.predict(Chunk(0, frames, 0, 0), predictor.initial_memory())
        depth = said[name].depth
        assert depth.shape[1:] == crop.resized
        assert not depth[:, : cut[0]].any() and not depth[:, -cut[1] :].any()
        assert depth[:, cut[0] : -cut[1]].all()
    scale = np.array(crop.resized[::-1]) / (112, 81)
    np.testing.assert_allclose(said["camera"].K[0][:2, 2], K[:2, 2] * scale)
    np.testing.assert_allclose(said["camera"].K[0][[0, 1], [0, 1]], 200 * scale)
    middle = np.array(crop.offset[::-1]) + np.array(crop.size[::-1]) / 2
    np.testing.assert_allclose(said["network"].K[0][:2, 2], middle)


def test_nan_depth_is_refused_by_name_and_the_memory_stays(predictor, chunk):
    _, memory = predictor.predict(chunk, predictor.initial_memory())
    before = memory.gradients[0].gate.clone()
    with torch.no_grad():
        predictor.model.depth_head.outputs[0].conv3.bias.fill_(float("nan"))
    with pytest.raises(PredictionError, match=r"prediction.depth must be finite"):
        predictor.predict(chunk, memory)
    assert torch.equal(memory.gradients[0].gate, before)


def test_out_of_memory_says_how_many_may_fit(predictor, chunk):
    def exhausted(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7 GiB.")

    handle = predictor.model.camera_head.register_forward_pre_hook(exhausted)
    with pytest.raises(ChunkTooLargeError, match="Tried to allocate 7 GiB") as error:
        predictor.predict(chunk, predictor.initial_memory())
    assert error.value.fits == 2
    handle.remove()
    predictor.predict(chunk, predictor.initial_memory())


def test_a_sequence_too_long_for_the_offline_schedule_is_told(predictor, chunk):
    def exhausted(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7 GiB.")

    inputs = [predictor.prepare(chunk, 0)] * 3
    predictor.model.aggregator.register_forward_pre_hook(exhausted)
    with pytest.raises(PredictionError, match=r"3 chunks at once do not fit .* allocate 7 GiB"):
        predictor.remember(inputs)


def test_images_become_smaller_but_not_tiny(predictor, chunk):
    whole, memory = predictor.predict(chunk, predictor.initial_memory())
    sizes = [whole.depth.shape[1:]]
    while predictor.use_smaller_images():
        smaller, memory = predictor.predict(chunk, memory)
        sizes.append(smaller.depth.shape[1:])
    areas = [height * width for height, width in sizes]
    assert len(areas) == 4 and areas == sorted(areas, reverse=True)
    assert areas[-1] < 0.3 * areas[0]


def test_smaller_images_are_expected_to_cost_less(predictor):
    predictor.budget.bytes_per_frame = 100e6
    assert predictor.use_smaller_images()
    assert predictor.budget.bytes_per_frame == pytest.approx(56.25e6)


def test_a_chunk_beyond_the_learnt_budget_is_not_even_tried(predictor, chunk, monkeypatch):
    predictor.budget.longest, predictor.budget.bytes_per_frame = 4, 100e6
    monkeypatch.setattr(predictor.budget, "available", lambda: 350e6)
    with pytest.raises(ChunkTooLargeError, match="4 keyframes do not fit the GPU, 3 do"):
        predictor.predict(chunk, predictor.initial_memory())


def test_without_memory_every_chunk_is_on_its_own(chunk):
    torch.manual_seed(0)
    settings = NetworkConfig(memory=False)
    alone = NetworkPredictor(Scal3R(TINY), device=torch.device("cpu"), settings=settings)
    first, memory = alone.predict(chunk, alone.initial_memory())
    again, _ = alone.predict(chunk, memory)
    assert not memory
    np.testing.assert_array_equal(first.depth, again.depth)


def test_parts_come_over_in_one_piece_with_their_shapes():
    parts = [torch.rand(2, 3), torch.rand(4, dtype=torch.float64), torch.rand(1, 2, 2).half()]
    for array, part in zip(to_host(*parts), parts, strict=True):
        assert array.dtype == np.float32
        assert array.base is None or array.base.size == array.size  # keeps nothing else alive
        np.testing.assert_array_equal(array, part.float().numpy())


def test_the_memory_begins_again_after_so_many_chunks(walk, chunk):
    torch.manual_seed(0)
    model = Scal3R(TINY)
    settings = NetworkConfig(reset_every=2)
    predictor = NetworkPredictor(model, device=torch.device("cpu"), settings=settings)
    memory, counts = predictor.initial_memory(), []
    for _ in range(5):
        _, memory = predictor.predict(chunk, memory)
        counts.append(memory.chunks)
    assert counts == [1, 2, 1, 2, 1]


def test_a_complete_memory_that_is_only_read_does_not_begin_again(chunk):
    torch.manual_seed(0)
    settings = NetworkConfig(reset_every=2)
    predictor = NetworkPredictor(Scal3R(TINY), device=torch.device("cpu"), settings=settings)
    inputs = [predictor.prepare(chunk, 0)] * 2
    _, memory = predictor.predict(chunk, predictor.remember(inputs), write=False)
    assert memory.chunks == 2


def test_a_warm_up_leaves_nothing_behind(predictor, chunk):
    before, _ = predictor.predict(chunk, predictor.initial_memory())
    predictor.warm_up(3, size=(60, 80))
    assert not predictor._kept
    after, _ = predictor.predict(chunk, predictor.initial_memory())
    np.testing.assert_array_equal(before.depth, after.depth)


@pytest.mark.parametrize(
    ("width", "asked", "seen"),
    [(0, 0, 1), (168, 0, 1), (224, 0, 2), (224, 1, 1), (168, 2, 2), (168, 3, 3)],
)
def test_nano_looks_at_squares_where_its_images_are_large(chunk, width, asked, seen):
    """Of 64 x 48 pixels: 12 x 9 patches at 168 pixels, 16 x 12 at 224."""
    assert 12 * 9 < NANO_MANY < 16 * 12
    settings = NetworkConfig(image_width=width, attention_squares=asked)
    predictor = NetworkPredictor(Scal3R(TINY), device=torch.device("cpu"), settings=settings)
    predictor.prepare(chunk, 0)
    assert predictor.model.aggregator.global_side == seen


def test_large_networks_look_as_they_were_trained(chunk):
    model = Scal3R(replace(TINY, image_width=518))
    settings = NetworkConfig(image_width=224)
    predictor = NetworkPredictor(model, device=torch.device("cpu"), settings=settings)
    predictor.prepare(chunk, 0)
    assert model.aggregator.global_side == 1


def test_attention_to_squares_is_a_setting(chunk):
    torch.manual_seed(0)
    model, device = Scal3R(TINY), torch.device("cpu")
    seen = {}
    for side in (0, 2, 1):
        settings = NetworkConfig(attention_squares=side)
        predictor = NetworkPredictor(model, device=device, settings=settings)
        seen[side] = predictor.predict(chunk, predictor.initial_memory())[0].depth
    np.testing.assert_array_equal(seen[0], seen[1])  # as the weights were trained
    assert np.abs(seen[2] - seen[1]).max() > 0
