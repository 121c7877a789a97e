"""What `scal3r doctor` says of a machine that lacks something."""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from scal3r_ros import doctor
from test.conftest import ROOT


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


WITHOUT = """
import runpy, sys
missing, module, *arguments = sys.argv[1:]
sys.modules.update(dict.fromkeys(missing.split(","), None))
sys.argv = [module, *arguments]
runpy.run_module(module, run_name="__main__")
"""


def run_without(missing: str, module: str, *arguments: str) -> subprocess.CompletedProcess:
    """As where packages are not installed."""
    command = [sys.executable, "-W", "ignore", "-c", WITHOUT, missing, module, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)


def test_everything_that_is_required_is_looked_for():
    text = (ROOT / "requirements" / "base.txt").read_text()
    required = set(re.findall(r"^[\w-]+", text, re.MULTILINE))
    assert required <= {*doctor.LIBRARIES.values(), "open3d"}


@pytest.mark.parametrize("module", list(doctor.LIBRARIES))
def test_a_missing_library_is_named_with_the_remedy(monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    package = doctor.LIBRARIES[module]
    found = {f.name: f for f in doctor._libraries()}[package]
    assert (found.ok, found.text) == (False, f"missing: pip install {package}")


def test_the_diagnosis_needs_the_standard_library_alone():
    done = run_without(",".join(doctor.LIBRARIES), "scal3r_ros.doctor")
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    for package in doctor.LIBRARIES.values():
        assert f"BAD {package}: missing: pip install {package}\n" in done.stdout
    assert "rclpy is missing" not in done.stdout  # it is there, PyYAML is not
    assert "shared memory" in done.stdout


def test_the_command_line_diagnoses_with_typer_alone():
    needed = set(doctor.LIBRARIES) - {"typer"}
    done = run_without(",".join(needed), "scal3r_ros.cli", "doctor")
    assert done.stdout.count("missing: pip install") == len(needed)
    assert done.returncode == 1, done.stderr


@pytest.mark.parametrize(
    ("module", "command", "said"),
    [
        ("typer", "doctor", "typer.*python -m scal3r_ros.doctor"),
        ("scipy", "map", "scipy.*scal3r doctor"),
        ("gtsam", "map", "gtsam.*scal3r doctor"),
    ],
)
def test_a_command_that_lacks_a_library_says_who_knows_more(module, command, said, tmp_path):
    arguments = ["examples/office", "--out", str(tmp_path / "out")] if command == "map" else []
    done = run_without(module, "scal3r_ros.cli", command, *arguments)
    assert done.returncode == 2
    assert re.fullmatch(f"scal3r: .*{said}.*\n", done.stderr)


@pytest.fixture
def no_profile(monkeypatch):
    for name in ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_both_names_of_the_profile_are_told_with_a_path_that_exists(no_profile):
    text = findings()["fast dds profile"].text
    assert "on Humble FASTRTPS_DEFAULT_PROFILES_FILE" in text
    path = Path(re.search(r"FASTDDS_DEFAULT_PROFILES_FILE=(\S+)", text).group(1))
    assert path.is_absolute() and path.is_file()


def test_the_profile_of_an_installed_package_lies_in_its_share_folder(no_profile, tmp_path):
    file = tmp_path / "share" / "scal3r_ros" / "config" / "fastdds_large_data.xml"
    file.parent.mkdir(parents=True)
    file.touch()
    no_profile.setattr(doctor, "__file__", "/usr/lib/python3/site-packages/scal3r_ros/doctor.py")
    no_profile.setenv("AMENT_PREFIX_PATH", f"/opt/ros/jazzy:{tmp_path}")
    assert doctor.fast_dds_profile() == file


def test_humble_hears_the_old_name_alone_and_a_file_must_exist(no_profile, tmp_path):
    file = tmp_path / "profile.xml"
    no_profile.setenv("FASTDDS_DEFAULT_PROFILES_FILE", str(file))
    gone = findings()["fast dds profile"]
    assert not gone.ok and f"{file} does not exist" in gone.text
    file.touch()
    assert findings()["fast dds profile"].text == str(file)
    no_profile.setenv("ROS_DISTRO", "humble")
    assert "no Fast DDS profile" in findings()["fast dds profile"].text
    no_profile.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", str(file))
    assert findings()["fast dds profile"].text == str(file)
