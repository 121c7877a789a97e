"""Names, strictness and files."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from scal3r_ros.network.checkpoint import (
    CheckpointError,
    convert,
    from_official,
    load_model,
    load_weights,
    official_name,
    read_tensors,
    save_weights,
    to_official,
)
from scal3r_ros.network.scal3r import ChunkImages, Scal3R, Scal3RConfig
from scal3r_ros.network.verify import FILES, verify
from test.network import seeded

MANIFEST = Path(__file__).parents[3] / "shared" / "scal3r_manifest.json"


@pytest.mark.skipif(not MANIFEST.is_file(), reason="the official manifest is not here")
def test_the_full_network_has_every_official_tensor():
    with torch.device("meta"):
        model = Scal3R(Scal3RConfig.scal3r())
    ours = {official_name(n): list(t.shape) for n, t in model.state_dict().items()}
    manifest = json.loads(MANIFEST.read_text())
    official = {name: shape for name, shape, *_ in manifest["state_dict"]}
    assert len(ours) == 1451
    assert ours == official


def test_official_names_translate_both_ways():
    model = Scal3R(seeded.SIZE)
    state = model.state_dict()
    back = from_official(to_official(state), model)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[n], state[n]) for n in state)


@pytest.fixture(scope="module")
def small() -> Scal3R:
    torch.manual_seed(0)
    return Scal3R(Scal3RConfig.nano())


def test_strict_loading_names_what_is_wrong(small):
    state = dict(small.state_dict())
    state["extra"] = torch.zeros(1)
    del state["camera_head.empty_pose"]
    state["aggregator.camera_token"] = torch.zeros(2)
    with pytest.raises(CheckpointError) as error:
        load_weights(small, state)
    for part in ("1 missing, first: camera_head.empty_pose", "unexpected, first: extra", "(2,)"):
        assert part in str(error.value)


def test_own_files_carry_their_sizes(small, tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, small, torch.float16, {"note": "x"})
    loaded = load_model(path)
    assert loaded.config == small.config
    weight = small.state_dict()["camera_head.embed_pose.weight"]
    torch.testing.assert_close(
        loaded.state_dict()["camera_head.embed_pose.weight"], weight.half().float()
    )


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_damaged_file_is_refused_by_name(tmp_path, content, suffix):
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="broken"):
        read_tensors(path)


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(CheckpointError, match="nothing.pt does not exist"):
        load_model(tmp_path / "nothing.pt")


def official_file(folder: Path, *, vggt: bool = False) -> tuple[Path, dict[str, torch.Tensor]]:
    """A small checkpoint as the official program (or VGGT) would have written it."""
    state = to_official(Scal3R(seeded.SIZE).state_dict())
    if vggt:
        state = {n: t for n, t in state.items() if ".ttt." not in n}
        for ours, theirs in (
            ("agg_regator.", "aggregator."),
            ("cam_decoder.", "camera_head."),
            ("dpt_decoder.", "depth_head."),
            ("xyz_decoder.", "point_head."),
        ):
            state = {n.replace(ours, theirs, 1): t for n, t in state.items()}
        state["track_head.weight"] = torch.zeros(2)
    torch.save(state, folder / "scal3r.pt")
    return folder / "scal3r.pt", state


def test_an_official_file_loads_converts_and_comes_back(tmp_path):
    path, state = official_file(tmp_path)
    model = load_model(path, seeded.SIZE)
    save_weights(tmp_path / "ours.safetensors", model, torch.float32, {})
    for target in ("back.safetensors", "back.pt"):
        convert(tmp_path / "ours.safetensors", tmp_path / target, "fp32", official=True)
        back, _ = read_tensors(tmp_path / target)
        assert back.keys() == state.keys()
        assert all(torch.equal(back[name], state[name]) for name in state)
    assert not list(tmp_path.glob("*.part"))


def test_what_a_form_cannot_hold_is_not_written(tmp_path):
    path, _ = official_file(tmp_path)
    model = load_model(path, seeded.SIZE, depth_head="moe")
    save_weights(tmp_path / "moe.safetensors", model, torch.float32, {})
    with pytest.raises(CheckpointError, match="official form has no mixture"):
        convert(tmp_path / "moe.safetensors", tmp_path / "back.pt", "fp32", official=True)
    with pytest.raises(CheckpointError, match=r"expected .safetensors, got .*ours.pt"):
        convert(tmp_path / "moe.safetensors", tmp_path / "ours.pt", "fp32", official=False)
    assert not list(tmp_path.glob("[bo]*.pt"))


def test_vggt_loads_with_an_untrained_memory_and_says_so(tmp_path, caplog):
    path, state = official_file(tmp_path, vggt=True)
    model = load_model(path, seeded.SIZE)
    assert "the memory is untrained" in caplog.text
    token = state["aggregator.camera_token"]
    torch.testing.assert_close(model.state_dict()["aggregator.camera_token"], token)
    state = torch.get_rng_state()
    again = load_model(path, seeded.SIZE)
    assert torch.equal(torch.get_rng_state(), state)  # and nobody else's numbers change
    depth, same = (m([ChunkImages(seeded.chunks()[0], 0)])[0][0].depth for m in (model, again))
    assert torch.isfinite(depth).all()
    assert torch.equal(depth, same)


def test_a_mixture_takes_the_place_of_the_single_head_without_changing_depth(tmp_path, caplog):
    path, _ = official_file(tmp_path)
    chunk = ChunkImages(seeded.chunks()[0], 0)
    with torch.no_grad():
        single = load_model(path, seeded.SIZE)([chunk])[0][0]
        model = load_model(path, seeded.SIZE, depth_head="moe")
        mixture = model([chunk])[0][0]
    assert "the mixture in its place is untrained" in caplog.text
    assert model.config.depth_head == "moe"
    torch.testing.assert_close(mixture.depth, single.depth)
    save_weights(tmp_path / "moe.safetensors", model, torch.float32, {})
    assert load_model(tmp_path / "moe.safetensors").config.depth_head == "moe"
    with pytest.raises(CheckpointError, match="has a moe depth head, asked for dpt"):
        load_model(tmp_path / "moe.safetensors", depth_head="dpt")


def test_verify_reads_the_layout_and_compares(tmp_path):
    """`scal3r weights verify` on the stored outputs of the official program."""
    model = Scal3R(seeded.SIZE)
    shapes = {official_name(n): tuple(t.shape) for n, t in model.state_dict().items()}
    save_file(seeded.weights(shapes), tmp_path / "weights.safetensors")
    inputs = {}
    for index, images in enumerate(seeded.chunks()):
        pixels = images.permute(0, 1, 3, 4, 2).reshape(1, seeded.FRAMES, -1, 3)
        inputs[f"c{index}.rgb"] = pixels.contiguous()
        inputs[f"c{index}.HW"] = torch.tensor([seeded.HEIGHT, seeded.WIDTH])
    save_file(inputs, tmp_path / "inputs.safetensors")
    stored = load_file(Path(__file__).parent / "official.safetensors")
    outputs = {n: t for n, t in stored.items() if ".c" in n and ".xyz" not in n}
    save_file(outputs, tmp_path / "outputs.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(seeded.official_settings()))
    errors = verify(tmp_path)
    assert len(errors) == 8
    assert max(errors.values()) < 1e-4
    outputs["offline.c1.dpt_map"] = 1.001 * outputs["offline.c1.dpt_map"]
    save_file(outputs, tmp_path / "outputs.safetensors")
    assert verify(tmp_path)["offline.c1.dpt_map"] > 1e-4


def test_verify_says_which_file_is_damaged(tmp_path):
    for name in FILES:
        (tmp_path / name).write_text("{}")
    with pytest.raises(CheckpointError, match=r"config.json lacks 'cfg'"):
        verify(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(seeded.official_settings()))
    with pytest.raises(CheckpointError, match=r"weights.safetensors cannot be read"):
        verify(tmp_path)
