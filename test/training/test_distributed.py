"""Training by several processes."""

import csv
import subprocess
import sys
from pathlib import Path

import torch
import yaml
from safetensors import safe_open

from scal3r_ros.network.checkpoint import load_model
from test.conftest import ROOT

SAMPLES = {"patches": [12], "frames_per_step": 2, "max_frames": 2, "max_chunks": 1}


def trained(out: Path, processes: int, **limits: float) -> Path:
    """`scal3r train`, as a user starts it; the folder that it leaves."""
    config = out.with_suffix(".yaml")
    config.write_text(yaml.safe_dump({"workers": 0, "samples": SAMPLES, **limits}))
    command = [sys.executable, "-m"]
    if processes > 1:
        command += ["torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(processes), "-m"]
    command += ["scal3r_ros.cli", "train", "--config", str(config), "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def weights(folder: Path) -> torch.Tensor:
    model = load_model(folder / "ema.safetensors")
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def test_the_second_process_s_images_are_learnt_from_too(tmp_path):
    alone = weights(trained(tmp_path / "alone", 1, steps=3))
    together = weights(trained(tmp_path / "together", 2, steps=3))
    assert torch.isfinite(together).all()
    assert float((alone - together).abs().max()) > 1e-4  # averaged with other gradients


def test_a_run_limited_by_time_ends_in_all_processes_at_once_and_goes_on(tmp_path):
    folder = trained(tmp_path / "run", 2, minutes=0.1)
    with safe_open(folder / "ema.safetensors", "pt") as file:
        before = int(file.metadata()["step"])
    trained(folder, 2, minutes=0.2)
    with safe_open(folder / "ema.safetensors", "pt") as file:
        after = file.metadata()
    assert int(after["step"]) > before > 0
    assert 12 <= float(after["seconds"]) < 60
    steps = [int(row["step"]) for row in csv.DictReader((folder / "log.csv").open())]
    assert {before, int(after["step"])} <= set(steps)  # the last line of either piece
    assert len(steps) == len(set(steps))  # of the first process alone
