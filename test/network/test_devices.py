"""Which device is taken, and what the machine tells of its GPU."""

import pytest
import torch

from scal3r_ros.network.devices import board_temperature, choose_device, gpu_temperature


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
