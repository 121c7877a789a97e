"""Which device is taken, and what the machine tells of its GPU."""

import pytest
import torch

from scal3r_ros.network import devices
from scal3r_ros.network.devices import (
    MemoryBudget,
    board_temperature,
    choose_device,
    choose_precision,
    gpu_temperature,
)

MIB = 2**20
PEAKS = {1: 1665, 8: 3222, 16: 3479, 48: 4863, 60: 5410}  # MiB: full network, 518x294, blocks bf16


@pytest.mark.parametrize(
    ("zones", "celsius"),
    [
        ([("CPU-therm", "48000"), ("GPU-therm", "53500")], 53.5),
        ([("gpu-thermal", ""), ("x86_pkg_temp", "61000")], None),  # asleep: nothing to read
        ([("x86_pkg_temp", "61000")], None),
    ],
)
def test_the_board_s_own_sensor_is_found_by_its_name(tmp_path, zones, celsius):
    for number, (kind, value) in enumerate(zones):
        zone = tmp_path / f"thermal_zone{number}"
        zone.mkdir()
        (zone / "type").write_text(f"{kind}\n")
        (zone / "temp").write_text(value)
    assert board_temperature(tmp_path) == celsius


def test_a_cpu_has_no_gpu_temperature():
    assert gpu_temperature(torch.device("cpu")) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_driver_tells_the_temperature():
    celsius = gpu_temperature(torch.device("cuda:0"))
    assert celsius is not None and 5 < celsius < 110


@pytest.mark.parametrize("name", ["meta", "mps", "cuda:99", "gpu"])
def test_a_device_that_is_not_there_is_refused_by_name(name):
    with pytest.raises(ValueError, match=f"device .*{name}"):
        choose_device(name)


def test_the_processor_is_always_there():
    assert choose_device("cpu").type == "cpu"


def test_a_gpu_without_bfloat16_of_its_own_takes_float16(monkeypatch):
    capability = {0: (8, 6), 1: (7, 5)}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda d: capability[d.index])
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)  # it emulates
    assert choose_precision("auto", torch.device("cuda:0")) == torch.bfloat16
    assert choose_precision("auto", torch.device("cuda:1")) == torch.float16


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("flags\t\t: fpu sse2 avx512f avx512_bf16 vpclmulqdq\n", torch.bfloat16),
        ("flags\t\t: fpu amx_bf16 amx_tile\n", torch.bfloat16),
        ("model name\t: avx512_bf16\nflags\t\t: fpu sse2 avx512f\n", torch.float32),
        ("Features\t: fp asimd\n", torch.float32),
        (None, torch.float32),
    ],
)
def test_a_processor_takes_bfloat16_where_it_multiplies_it(tmp_path, monkeypatch, told, expected):
    """Other ones emulate it, and are slower for it."""
    cpuinfo = tmp_path / "cpuinfo"
    if told is not None:
        cpuinfo.write_text(told)
    monkeypatch.setattr(devices, "CPUINFO", cpuinfo)
    assert choose_precision("auto", torch.device("cpu")) == expected
    assert choose_precision("fp32", torch.device("cpu")) == torch.float32


class FakeGpu:
    """Counts bytes as torch's allocator does; nothing is held between two chunks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, total_mib: int) -> None:
        self.total, self.peak = total_mib * MIB, 0
        for name, answer in {
            "mem_get_info": lambda _: (self.total, self.total),
            "memory_reserved": lambda _: 0,
            "memory_allocated": lambda _: 0,
            "reset_peak_memory_stats": lambda _: None,
            "max_memory_allocated": lambda _: self.peak,
        }.items():
            monkeypatch.setattr(torch.cuda, name, answer)
        self.budget = MemoryBudget(torch.device("cuda"), fraction=1.0)

    def run(self, frames: int) -> None:
        with self.budget.watch(frames):
            self.peak = PEAKS[frames] * MIB


def test_a_short_chunk_refuses_no_long_one(monkeypatch):
    """A frame of the first chunk costs 403 MiB, of a whole one 90."""
    gpu = FakeGpu(monkeypatch, 8192)
    assert gpu.budget.fits(60) is None  # nothing is known
    gpu.run(8)
    assert gpu.budget.fits(60) is None
    gpu.run(48)
    for closing in (8, 1):
        gpu.run(closing)
        assert gpu.budget.fits(60) >= 60


def test_what_does_not_fit_is_told_from_a_chunk_as_long(monkeypatch):
    gpu = FakeGpu(monkeypatch, 8192)
    gpu.run(48)
    gpu.total = 4096 * MIB  # others took the rest
    assert 30 < gpu.budget.fits(48) < 48
    gpu.run(60)
    assert gpu.budget.fits(60) == int(4096 / (5410 / 60))
