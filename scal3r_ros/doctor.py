"""scal3r doctor: what the package needs, what is there, and the remedy in one line each."""

import importlib
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

LIBRARIES = {
    "numpy": "numpy",
    "scipy": "scipy",
    "cv2": "opencv-python-headless",
    "gtsam": "gtsam",
    "torch": "torch",
    "einops": "einops",
    "safetensors": "safetensors",
    "rosbags": "rosbags",
    "threadpoolctl": "threadpoolctl",
}
OPTIONAL_ROS = {
    "tf2_ros": "the built-in transform broadcaster is used",
    "launch_ros": "start the nodes with `python -m scal3r_ros.ros.mapping_node`",
    "cv_bridge": "images are decoded by the package itself",
}
MIN_SHM_MB = 64  # one Fast DDS segment of config/fastdds_large_data.xml
SHM = Path("/dev/shm")
DRIVER = (Path("/proc/driver/nvidia/version"), Path("/dev/nvidia0"), Path("/dev/nvhost-gpu"))
WEIGHTS = Path(__file__).parent / "weights" / "nano.safetensors"


@dataclass(frozen=True)
class Finding:
    name: str
    ok: bool
    text: str


def diagnose() -> list[Finding]:
    """Every check, in the order in which a user would need it."""
    checks: tuple[Callable[[], list[Finding]], ...] = (
        _python,
        _libraries,
        _device,
        _weights,
        _ros,
        _transport,
    )
    return [finding for check in checks for finding in check()]


def _python() -> list[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    ok = (3, 10) <= sys.version_info[:2] <= (3, 13)
    return [Finding("python", ok, version if ok else f"3.10 to 3.13 is needed, this is {version}")]


def _libraries() -> list[Finding]:
    found = []
    for module, package in LIBRARIES.items():
        try:
            version = getattr(importlib.import_module(module), "__version__", "installed")
            found.append(Finding(package, True, str(version)))
        except ImportError as error:
            found.append(Finding(package, False, f"{error}; pip install {package}"))
    try:
        importlib.import_module("open3d")
        found.append(Finding("open3d", True, "installed"))
    except (ImportError, OSError) as error:
        hint = "only for meshes and to look at maps; Debian's libusb-1.0-0, libgl1 may be missing"
        found.append(Finding("open3d", True, f"not usable ({error}): {hint}"))
    return found


def _device() -> list[Finding]:
    try:
        import torch
    except ImportError:
        return []
    driver = any(file.exists() for file in DRIVER)
    if not torch.cuda.is_available() and driver:
        built = torch.version.cuda or "no CUDA"
        text = (
            f"an NVIDIA driver is here, but torch {torch.__version__} ({built}) cannot use it: "
            "install the torch build for this driver, see https://pytorch.org/get-started"
        )
        return [Finding("gpu", False, text)]
    if not torch.cuda.is_available():
        return [
            Finding("gpu", True, "none: the nano network runs on the CPU, a few images a second")
        ]
    free, total = torch.cuda.mem_get_info()
    name = torch.cuda.get_device_name()
    return [Finding("gpu", True, f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free")]


def _weights() -> list[Finding]:
    from scal3r_ros.network.checkpoint import load_model

    try:
        model = load_model(WEIGHTS)
    except (OSError, ValueError, KeyError) as error:
        return [Finding("nano weights", False, f"{error}; install the package again")]
    count = sum(p.numel() for p in model.parameters()) / 1e6
    return [Finding("nano weights", True, f"{count:.1f} M parameters")]


def _ros() -> list[Finding]:
    try:
        importlib.import_module("rclpy")
    except ImportError:
        text = "rclpy is missing: source your ROS 2, or `make setup` (scal3r map works without)"
        return [Finding("ros 2", False, text)]
    distribution = os.environ.get("ROS_DISTRO", "from wheels")
    found = [Finding("ros 2", True, distribution)]
    try:
        importlib.import_module("scal3r_ros.msg")
        found.append(Finding("messages", True, "built"))
    except ImportError:
        text = "not built: colcon build and source install/setup.bash, or `make setup`"
        found.append(Finding("messages", False, text))
    for module, instead in OPTIONAL_ROS.items():
        try:
            importlib.import_module(module)
            found.append(Finding(module, True, "installed"))
        except ImportError:
            found.append(Finding(module, True, f"not installed: {instead}"))
    return found


def _transport() -> list[Finding]:
    profile = os.environ.get("FASTDDS_DEFAULT_PROFILES_FILE") or os.environ.get(
        "FASTRTPS_DEFAULT_PROFILES_FILE"
    )
    text = profile or (
        "no Fast DDS profile: best-effort images will not arrive; "
        "export FASTDDS_DEFAULT_PROFILES_FILE=config/fastdds_large_data.xml, also for the driver"
    )
    found = [Finding("fast dds profile", True, text)]
    if SHM.is_dir():
        free = shutil.disk_usage(SHM).free / 2**20
        ok = free >= MIN_SHM_MB
        said = f"{free:.0f} MB free" + ("" if ok else f", {MIN_SHM_MB} MB needed: --shm-size=1g")
        found.append(Finding("shared memory", ok, said))
    return found
