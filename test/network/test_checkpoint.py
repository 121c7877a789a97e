"""Names, strictness and files."""

import json
from pathlib import Path

import pytest
import torch

from scal3r_ros.network.checkpoint import (
    CheckpointError,
    from_official,
    load_model,
    load_weights,
    official_name,
    read_tensors,
    save_weights,
    to_official,
)
from scal3r_ros.network.scal3r import Scal3R, Scal3RConfig
from test.network.test_scal3r import PARITY_SIZE

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
    model = Scal3R(PARITY_SIZE)
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
