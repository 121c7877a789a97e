"""scal3r doctor: what the package needs, what is there, and the remedy in one line each.

It needs nothing itself: `python -m scal3r_ros.doctor` works where the command line does not.
"""

import importlib
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

LIBRARIES = {
    "numpy": "numpy",
    "scipy": "scipy",
    "cv2": "opencv-python-headless",
    "gtsam": "gtsam",
    "torch": "torch",
    "einops": "einops",
    "safetensors": "safetensors",
    "jaxtyping": "jaxtyping",
    "yaml": "PyYAML",
    "rosbags": "rosbags",
    "typer": "typer",
    "tqdm": "tqdm",
    "threadpoolctl": "threadpoolctl",
    "pynvml": "nvidia-ml-py",
}
OPTIONAL_ROS = {
    "tf2_ros": "the built-in transform broadcaster is used",
    "launch_ros": "start the nodes with `python -m scal3r_ros.ros.mapping_node`",
    "cv_bridge": "images are decoded by the package itself",
}
MIN_SHM_MB = 64  # one Fast DDS segment of config/fastdds_large_data.xml
SHM = Path("/dev/shm")
DRIVER = (Path("/proc/driver/nvidia/version"), Path("/dev/nvidia0"), Path("/dev/nvhost-gpu"))
FAST_DDS, FAST_DDS_HUMBLE = "FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"
PROFILE = Path("config/fastdds_large_data.xml")
WEIGHTS = Path(__file__).parent / "weights" / "nano.safetensors"


@dataclass(frozen=True)
class Finding:
    name: str
    ok: bool
    text: str

    def __str__(self) -> str:
        return f"{'ok ' if self.ok else 'BAD'} {self.name}: {self.text}"


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


def _imported(module: str) -> tuple[ModuleType | None, str]:
    """The module, or None and why it cannot be used; "" where it simply is not there."""
    try:
        return importlib.import_module(module), ""
    except ModuleNotFoundError as error:
        return None, "" if error.name == module else f"not usable: {error}"
    except Exception as error:  # a binary package that does not fit raises whatever it likes
        return None, f"not usable: {error}"


def _libraries() -> list[Finding]:
    found = []
    for module, package in LIBRARIES.items():
        there, why = _imported(module)
        version = getattr(there, "__version__", "installed")
        text = str(version) if there else why or f"missing: pip install {package}"
        found.append(Finding(package, there is not None, text))
    there, why = _imported("open3d")
    hint = "only for meshes and to look at maps; Debian's libusb-1.0-0, libgl1 may be missing"
    text = "installed" if there else f"{why or 'not installed'}: {hint}"
    return [*found, Finding("open3d", True, text)]


def _device() -> list[Finding]:
    torch, _ = _imported("torch")
    if torch is None:
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
        devices, _ = _imported("scal3r_ros.network.devices")
        half = devices is not None and devices.multiplies_bfloat16()
        what = "in bfloat16" if half else "which does not multiply bfloat16,"
        text = f"none: the nano network runs on the CPU, {what} a few images a second"
        return [Finding("gpu", True, text)]
    free, total = torch.cuda.mem_get_info()
    name = torch.cuda.get_device_name()
    return [Finding("gpu", True, f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free")]


def _weights() -> list[Finding]:
    checkpoint, why = _imported("scal3r_ros.network.checkpoint")
    if checkpoint is None:
        return [Finding("nano weights", False, why)]
    try:
        model = checkpoint.load_model(WEIGHTS)
    except (OSError, ValueError, KeyError) as error:
        return [Finding("nano weights", False, f"{error}; install the package again")]
    count = sum(p.numel() for p in model.parameters()) / 1e6
    return [Finding("nano weights", True, f"{count:.1f} M parameters")]


def _ros() -> list[Finding]:
    there, why = _imported("rclpy")
    if there is None:
        source = "source your ROS 2, or `make setup` (scal3r map works without)"
        return [Finding("ros 2", False, why or f"rclpy is missing: {source}")]
    found = [Finding("ros 2", True, os.environ.get("ROS_DISTRO", "from wheels"))]
    there, why = _imported("scal3r_ros.msg")
    build = "not built: colcon build and source install/setup.bash, or `make setup`"
    found.append(Finding("messages", there is not None, "built" if there else why or build))
    for module, instead in OPTIONAL_ROS.items():
        there, why = _imported(module)
        text = "installed" if there else f"{why or 'not installed'}: {instead}"
        found.append(Finding(module, True, text))
    return found


def _transport() -> list[Finding]:
    found = [_fast_dds()]
    if SHM.is_dir():
        free = shutil.disk_usage(SHM).free / 2**20
        ok = free >= MIN_SHM_MB
        said = f"{free:.0f} MB free" + ("" if ok else f", {MIN_SHM_MB} MB needed: --shm-size=1g")
        found.append(Finding("shared memory", ok, said))
    return found


def _fast_dds() -> Finding:
    heard = dict.fromkeys((fast_dds_variable(), FAST_DDS_HUMBLE))
    profile = next((os.environ[name] for name in heard if os.environ.get(name)), "")
    if profile and not Path(profile).is_file():
        return Finding("fast dds profile", False, f"{profile} does not exist: {fast_dds_remedy()}")
    missing = f"no Fast DDS profile: best-effort images will not arrive; {fast_dds_remedy()}"
    return Finding("fast dds profile", True, profile or missing)


def fast_dds_remedy() -> str:
    """How large best-effort images arrive, in one line."""
    return (
        f"export {FAST_DDS}={fast_dds_profile()} (on Humble {FAST_DDS_HUMBLE}), also for the driver"
    )


def fast_dds_variable() -> str:
    """Which names the profile in this distribution; later ones warn of the old name."""
    return FAST_DDS_HUMBLE if os.environ.get("ROS_DISTRO") == "humble" else FAST_DDS


def fast_dds_profile() -> Path:
    """Where it lies: in the checkout, or in the share folder of the installed package."""
    prefixes = filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep))
    shares = [Path(prefix) / "share" / "scal3r_ros" for prefix in prefixes]
    files = [folder / PROFILE for folder in (Path(__file__).parents[1], *shares)]
    return next((file for file in files if file.is_file()), PROFILE)


def main() -> None:
    findings = diagnose()
    print(*findings, sep="\n")
    sys.exit(0 if all(f.ok for f in findings) else 1)


if __name__ == "__main__":
    main()
