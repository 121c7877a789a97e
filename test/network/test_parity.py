"""Our numbers are the official program's: stored with the repository for a network of width 64, and
stage by stage at width 128 where the large reference folder is at hand."""

import json
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from scal3r_ros.evaluation.neighbour_chain import chain, fit_neighbour, owned_frames
from scal3r_ros.geometry.camera import unproject
from scal3r_ros.mapping.chunker import Chunker
from scal3r_ros.mapping.config import ChunkConfig
from scal3r_ros.mapping.types import Frame
from scal3r_ros.network.aggregator import MemoryPolicy
from scal3r_ros.network.camera_head import decode_camera
from scal3r_ros.network.checkpoint import from_official, load_weights, official_name
from scal3r_ros.network.dense_head import position_map
from scal3r_ros.network.layers import rotary_table, rotate
from scal3r_ros.network.memory import AdaptiveMemoryUnit, orthogonalise, step
from scal3r_ros.network.preprocess import plan_crop, preprocess, target_by_width
from scal3r_ros.network.scal3r import ChunkImages, Scal3R
from scal3r_ros.network.verify import (
    TOLERANCE,
    official_config,
    official_outputs,
    read_chunks,
    relative_error,
    run,
)
from test.network import seeded

STORED = load_file(Path(__file__).parent / "official.safetensors")
FOLDER = Path(__file__).parents[3] / "shared" / "parity"
needs_folder = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="the large folder of official numbers is not here"
)
UNIT = 1e-5  # relative, for a single stage


@cache
def numbers(name: str) -> dict[str, Tensor]:
    return load_file(FOLDER / f"{name}.safetensors")


@pytest.fixture(scope="module")
def seeded_model() -> Scal3R:
    model = Scal3R(seeded.SIZE).eval()
    shapes = {official_name(n): tuple(t.shape) for n, t in model.state_dict().items()}
    load_weights(model, from_official(seeded.weights(shapes), model))
    return model


@pytest.mark.parametrize(("schedule", "count"), [("offline", None), ("prefix1", 1)])
def test_outputs_of_a_small_network(seeded_model, schedule, count):
    chunks = [ChunkImages(images, reference=0) for images in seeded.chunks()]
    compared = 0
    for index, output in enumerate(run(seeded_model, chunks, count)):
        for name, ours in official_outputs(output).items():
            truth = STORED.get(f"{schedule}.c{index}.{name}")
            if truth is not None:
                error = relative_error(ours[:, : truth.shape[1]], truth)
                assert error < TOLERANCE, (index, name)
                compared += 1
    assert compared == (10 if count is None else 2)


def test_rotary_positions():
    for batch in range(2):
        table = rotary_table(STORED["rope.pos"][batch], 64)
        ours = rotate(STORED["rope.in"][batch], table)
        assert relative_error(ours, STORED["rope.out"][batch]) < UNIT


def test_cameras_are_decoded():
    T_cam_submap, K = decode_camera(STORED["cam.enc"], 112, 154)
    assert relative_error(T_cam_submap, STORED["cam.w2c"]) < UNIT
    assert relative_error(K, STORED["cam.K_112x154"]) < UNIT


def test_pixels_have_half_integer_centres():
    """Origins and directions of the rays of the first 8 x 11 pixels."""
    T_cam, K = (part.double().numpy() for part in decode_camera(STORED["cam.enc"], 112, 154))
    for camera in range(len(K)):
        R, t = T_cam[camera, :, :3], T_cam[camera, :, 3]
        rays = unproject(np.ones((8, 11)), K[camera]) @ R  # R^T of each
        np.testing.assert_allclose(rays, STORED["rays.d"][camera].numpy(), atol=1e-5)
        np.testing.assert_allclose(-R.T @ t, STORED["rays.o"][camera, 0, 0].numpy(), atol=1e-5)


@pytest.mark.parametrize("case", [0, 1, 2])
def test_the_published_fit_of_neighbours(case):
    names = ("tar", "src", "tar_cnf", "src_cnf")
    tar, src, tar_cnf, src_cnf = (STORED[f"fit{case}.{n}"].numpy() for n in names)
    T = fit_neighbour(tar, src, tar_cnf[:, 0], src_cnf[:, 0]).as_matrix()
    np.testing.assert_allclose(T, STORED[f"fit{case}.T"].numpy(), atol=1e-5)


@pytest.mark.parametrize("size", [(480, 640), (99, 101), (33, 700), (700, 33), (1080, 1920)])
@pytest.mark.parametrize("width", [154, 518])
def test_images_are_resized_as_pillow_does(size, width):
    """The official program resizes bytes by Pillow's bicubic filter, then crops the middle."""
    pil = pytest.importorskip("PIL.Image")
    random = np.random.RandomState(1)
    coarse = random.randint(0, 256, (9, 11, 3), dtype=np.uint8)
    smooth = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
    image = np.clip(smooth + random.normal(0, 10, smooth.shape), 0, 255).astype(np.uint8)
    crop = plan_crop(*size, target_by_width(*size, width, 14), 14)
    resized = np.asarray(pil.fromarray(image).resize(crop.resized[::-1], pil.BICUBIC))
    top, left = crop.offset
    cut = resized[top : top + crop.size[0], left : left + crop.size[1]]
    ours = preprocess(torch.from_numpy(image), crop).permute(1, 2, 0).numpy() * 255
    assert ours.shape[:2] == crop.size
    difference = np.abs(ours[: len(cut), : cut.shape[1]] - cut)
    assert difference.max() < 1.01  # Pillow's weights are in fixed point
    assert (difference > 0.5).mean() < 5e-4


# From here on the large folder.


@pytest.fixture(scope="module")
def model() -> Scal3R:
    model = Scal3R(official_config(json.loads((FOLDER / "config.json").read_text()))).eval()
    load_weights(model, from_official(numbers("weights"), model))
    return model


@pytest.fixture(scope="module")
def passed(model):
    """Tokens of both chunks after the backbone, and the memory that they wrote."""
    with torch.inference_mode():
        tokens = [model._tokens(chunk) for chunk in read_chunks(numbers("inputs"))]
        return tokens, model.aggregator(tokens, None, MemoryPolicy())


@needs_folder
@pytest.mark.parametrize("chunk", [0, 1])
def test_taps_and_poses_round_by_round(model, passed, chunk):
    tokens = passed[0][chunk]
    truth = numbers(f"offline_nsfp32_chunk{chunk}")
    dim = model.config.dim
    for slot, layer in enumerate(model.config.taps):
        # the tap holds the global half after the memory, where there is one
        stored = truth.get(f"L{layer}.feat", truth[f"L{layer}.feat_pre_ttt"])
        assert relative_error(tokens.taps[slot], stored) < TOLERANCE, layer
        if f"L{layer}.global_post_ttt" in truth:
            ours = tokens.taps[slot][..., dim:].flatten(1, 2)
            assert relative_error(ours, truth[f"L{layer}.global_post_ttt"]) < TOLERANCE
    with torch.inference_mode():
        rounds = model.camera_head(tokens.camera)
    for index, encoding in enumerate(rounds):
        assert relative_error(encoding, truth[f"cam.pose_enc_it{index}"]) < TOLERANCE


@needs_folder
def test_fast_weights(model, passed):
    truth = numbers("offline_nsfp32_fastweights")
    for layer, gradient in zip(model.config.memory_layers, passed[1].gradients, strict=True):
        unit = model.aggregator.memories[str(layer)]
        assert isinstance(unit, AdaptiveMemoryUnit)
        moved = step(unit.weights, gradient)
        for matrix, part in enumerate(("gate", "down", "up")):
            summed = truth[f"L{layer}.ttt.gsum{matrix}"]
            assert relative_error(getattr(gradient, part), summed) < TOLERANCE
            after = truth[f"L{layer}.ttt.w{matrix}_after"]
            assert relative_error(getattr(moved, part), after) < TOLERANCE


@needs_folder
def test_newton_schulz_in_the_official_precision():
    misc = numbers("misc")
    for ours, name in (
        (orthogonalise(misc["ns.in"], torch.bfloat16), "ns.out"),
        (orthogonalise(misc["ns.in"].mT, torch.bfloat16), "ns.outT"),
    ):
        error = (ours - misc[name].float()).norm() / misc[name].float().norm()
        assert error < 0.02, name  # two bfloat16 roundings of one product differ by as much


@needs_folder
def test_positions_of_the_dense_head():
    stored = numbers("misc")["uv_embed_22x16x32"]  # rows, columns, channels of a 22 x 16 grid
    height, width = stored.shape[:2]
    ours = position_map(32, height, width, width / height, torch.device("cpu"))
    assert relative_error(ours[0].permute(1, 2, 0) / 0.1, stored) < UNIT


@needs_folder
@pytest.mark.parametrize(
    "size", ["101x99", "1080x1920", "294x518", "376x1241", "480x640", "640x480"]
)
def test_images_of_odd_sizes(size):
    truth = numbers("preprocess")
    width = int(truth[f"{size}.proc_w_h_w"][0])
    image = cv2.imread(str(FOLDER / "images_pre" / f"{size}.png"))[..., ::-1].copy()
    height_in, width_in = image.shape[:2]
    crop = plan_crop(height_in, width_in, target_by_width(height_in, width_in, width, 14), 14)
    ours = preprocess(torch.from_numpy(image), crop).permute(1, 2, 0) * 255
    stored = truth[f"{size}.rgb"].float()
    assert ours.shape == stored.shape
    assert (ours - stored).abs().max() < 1.01
    assert ((ours - stored).abs() > 0.5).float().mean() < 5e-4


@needs_folder
@pytest.mark.parametrize("case", [0, 1, 2])
def test_fits_of_four_thousand_points(case):
    stored = numbers("sim3_align")
    names = ("tar", "src", "tar_cnf", "src_cnf")
    tar, src, tar_cnf, src_cnf = (stored[f"{case}.{n}"].numpy() for n in names)
    T = fit_neighbour(tar, src, tar_cnf[:, 0], src_cnf[:, 0]).as_matrix()
    np.testing.assert_allclose(T, stored[f"{case}.wet.T"].numpy(), atol=2e-5)


@needs_folder
def test_alignment_and_frame_selection_give_the_official_trajectory():
    stored = {n: t.numpy().astype(np.float64) for n, t in numbers("post_align").items()}
    names = ("tar_xyz", "src_xyz", "tar_cnf", "src_cnf")
    tar, src, tar_cnf, src_cnf = (stored[f"pair0.{n}"] for n in names)
    T_0_1 = fit_neighbour(tar, src, tar_cnf[:, 0], src_cnf[:, 0])
    np.testing.assert_allclose(T_0_1.as_matrix(), stored["pair0.T"], atol=1e-5)
    placed, ours = chain([T_0_1]), []
    for index, keep in enumerate(owned_frames([4, 4], 2)):
        T = np.tile(np.eye(4), (4, 1, 1))
        T[:, :3] = stored[f"c{index}.w2c"]
        order = np.argsort(numbers("inputs")[f"c{index}.src_inds"][0].numpy())  # chronological
        ours.append((placed[index].as_matrix() @ np.linalg.inv(T))[order][keep])
    np.testing.assert_allclose(np.concatenate(ours), stored["c2w"], atol=1e-5)


@needs_folder
def test_chunks_are_cut_as_the_official_program_cuts_them():
    """14 images in windows of 4 that share 2; the reference is the middle one."""
    official = [c for c in json.loads((FOLDER / "loop.json").read_text())["indices"] if len(c) == 2]
    chunker = Chunker(ChunkConfig(size=4, overlap=2, first_size=4))
    image = np.zeros((2, 2, 3), np.uint8)
    chunks = [chunker.add(Frame(i, i, image)) for i in range(14)] + [chunker.flush()]
    ours = [(c.frames[0].index, c.frames[-1].index + 1) for c in chunks if c]
    assert ours == [tuple(c) for c in official]
    for index, chunk in enumerate([c for c in chunks if c][:2]):
        stored = numbers("inputs")[f"c{index}.src_inds"][0, 0]
        assert chunk.frames[chunk.reference].index == stored
