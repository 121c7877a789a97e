"""What `scal3r doctor` says of a machine that lacks something."""

from types import SimpleNamespace

import pytest
import torch

from scal3r_ros import doctor


def findings() -> dict[str, doctor.Finding]:
    return {f.name: f for f in doctor.diagnose()}


def test_this_machine_has_what_is_needed():
    found = findings()
    assert all(found[name].ok for name in ("python", "torch", "gtsam", "nano weights"))


def test_missing_weights_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "WEIGHTS", tmp_path / "nano.safetensors")
    weights = findings()["nano weights"]
    assert not weights.ok
    assert "nano.safetensors" in weights.text and "install the package again" in weights.text


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_no_gpu_and_a_driver_that_torch_cannot_use_are_told_apart(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "DRIVER", (tmp_path / "nvidia0",))
    assert "none: the nano network runs on the CPU" in findings()["gpu"].text
    (tmp_path / "nvidia0").touch()
    mismatch = findings()["gpu"]
    assert not mismatch.ok
    assert f"torch {torch.__version__}" in mismatch.text
    assert "install the torch build for this driver" in mismatch.text


def test_shared_memory_that_is_too_small_is_named_with_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "SHM", tmp_path)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=20 * 2**20))
    small = findings()["shared memory"]
    assert not small.ok
    assert small.text == "20 MB free, 64 MB needed: --shm-size=1g"
