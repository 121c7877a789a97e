"""Chunks shared among processes give what one process gives."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from scal3r_ros.network.aggregator import MemoryPolicy
from scal3r_ros.network.parallel import Process, join_processes
from scal3r_ros.network.scal3r import ChunkImages, Scal3R, Scal3RConfig
from test.conftest import ROOT


def network() -> Scal3R:
    torch.manual_seed(3)
    return Scal3R(replace(Scal3RConfig.nano(), encoder_depth=1)).eval()


def chunks() -> list[ChunkImages]:
    generator = torch.Generator().manual_seed(5)
    lengths = (3, 2, 4, 2, 3)
    return [ChunkImages(torch.rand(1, s, 3, 42, 56, generator=generator), 0) for s in lengths]


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_agree_with_one(tmp_path, processes):
    with torch.inference_mode():
        alone, _ = network()(chunks(), None, MemoryPolicy())
        blind = [network()([c], None, MemoryPolicy())[0][0] for c in chunks()]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), "-m", "test.network.parallel_worker"]
    done = subprocess.run(
        [*command, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for i, expected in enumerate(alone):
        got = torch.load(tmp_path / f"{i}.pt", weights_only=True)
        assert got["chunks"] == len(alone)
        scale = expected.depth.abs().max()
        assert (got["depth"] - expected.depth).abs().max() < 1e-5 * scale
        assert (got["camera"] - expected.encodings[-1]).abs().max() < 1e-5
        without = blind[i].encodings[-1]
        assert (without - expected.encodings[-1]).abs().max() > 1e-3  # memory matters


def test_chunks_are_dealt_out_in_turn():
    owners = [[p for p in range(3) if Process(p, 3).owns(chunk)] for chunk in range(7)]
    assert owners == [[0], [1], [2], [0], [1], [2], [0]]


def test_without_torchrun_it_says_how_to_start(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(ValueError, match="torchrun --nproc-per-node"):
        join_processes(torch.device("cpu"))
