"""Makes .venv with ROS 2, torch and every dependency, and builds the messages with colcon.

Run by `make setup` with the machine's Python. Idempotent: a stamp keyed by its inputs ends the
second run in a moment. Where ROS_DISTRO is sourced, the machine's own ROS 2 is used.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "scal3r_ros.stamp"
TORCH = os.environ.get("TORCH", "torch==2.13.0")
NEEDED_GB = 8
INPUTS = ("requirements/*.txt", "msg/*.msg", "srv/*.srv", "package.xml", "CMakeLists.txt")
INPUTS += ("tools/overlay/**/*", "tools/setup_environment.py")


class SetupError(Exception):
    """One line that says what is missing."""


def main() -> int:
    try:
        check_machine()
        if is_current():
            print("setup: up to date")
            return 0
        make_environment()
        build_messages()
        STAMP.write_text(fingerprint())
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"setup: {' '.join(map(str, error.cmd[:4]))} ... failed", file=sys.stderr)
        return 1
    print("setup: done")
    return 0


def check_machine() -> None:
    version = sys.version_info
    if not (3, 10) <= version[:2] <= (3, 13):
        got = f"{version.major}.{version.minor}"
        raise SetupError(f"Python 3.10 to 3.13 is needed, got {got}; set PYTHON=python3.11")
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError as error:
        raise SetupError("the venv module is missing: apt install python3-venv") from error
    if shutil.which("c++") is None and shutil.which("g++") is None:
        raise SetupError("a C++ compiler is missing: apt install g++")
    for tool in ("cmake", "make"):
        if shutil.which(tool) is None:
            raise SetupError(f"{tool} is missing: apt install {tool}")
    free = shutil.disk_usage(ROOT).free / 1e9
    if not VENV.exists() and free < NEEDED_GB:
        raise SetupError(f"{NEEDED_GB} GB of disk are needed, {free:.1f} GB are free at {ROOT}")


def fingerprint() -> str:
    """Of everything the environment depends on."""
    digest = hashlib.sha256(f"{sys.version}{TORCH}{os.environ.get('ROS_DISTRO', '')}".encode())
    for pattern in INPUTS:
        for path in sorted(p for p in ROOT.glob(pattern) if p.is_file()):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def is_current() -> bool:
    built = ROOT / "install" / "scal3r_ros"
    return STAMP.exists() and built.is_dir() and STAMP.read_text() == fingerprint()


def has_own_ros() -> bool:
    return "ROS_DISTRO" in os.environ


def make_environment() -> None:
    if not (VENV / "bin" / "python").exists():
        print("setup: making .venv", flush=True)
        options = ["--system-site-packages"] if has_own_ros() else []
        run(sys.executable, "-m", "venv", *options, VENV)
        (VENV / "COLCON_IGNORE").touch()
    print(f"setup: installing {TORCH} and requirements", flush=True)
    pip(TORCH)
    pip("-r", "requirements/base.txt", "-r", "requirements/dev.txt")
    if not has_own_ros():
        pip("-r", "requirements/ros.txt")


def pip(*arguments: str) -> None:
    command = [VENV / "bin" / "python", "-m", "pip", "install", "--quiet", *arguments]
    result = subprocess.run(
        [*map(str, command), "--disable-pip-version-check"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if "ERROR" in line]
        raise SetupError(f"pip could not install {' '.join(arguments)}: {' '.join(lines[-2:])}")


def build_messages() -> None:
    print("setup: building messages with colcon", flush=True)
    python = VENV / "bin" / "python"
    environment = dict(os.environ)
    if not has_own_ros():
        repair_exported_cmake()
        environment |= {"AMENT_PREFIX_PATH": str(VENV), "CMAKE_PREFIX_PATH": str(VENV)}
    environment["PATH"] = f"{VENV / 'bin'}:{environment['PATH']}"
    log = ROOT / "log" / "setup.txt"
    log.parent.mkdir(exist_ok=True)
    arguments = ["build", "--base-paths", lay_sources(), "--executor", "sequential"]
    arguments += ["--cmake-args", f"-DPython3_EXECUTABLE={python}", "-DBUILD_TESTING=OFF"]
    colcon = shutil.which("colcon", path=environment["PATH"])
    if colcon is None:
        raise SetupError("colcon is missing: apt install python3-colcon-common-extensions")
    with log.open("w") as out:
        result = subprocess.run(
            [colcon, *map(str, arguments)],
            cwd=ROOT,
            env=environment,
            stdout=out,
            stderr=out,
            check=False,
        )
    if result.returncode:
        raise SetupError(f"colcon build failed: see {log.relative_to(ROOT)}")


def lay_sources() -> Path:
    """Copies of what colcon builds, in a folder of their own.

    CMake refuses to export include paths below a package's own source folder, where .venv lies.
    """
    sources = ROOT / "build" / "src"
    shutil.rmtree(sources, ignore_errors=True)
    package = sources / "scal3r_ros"
    package.mkdir(parents=True)
    for name in ("CMakeLists.txt", "package.xml"):
        shutil.copy(ROOT / name, package / name)
    skip = shutil.ignore_patterns("__pycache__")
    for name in ("msg", "srv", "scripts", "launch", "config", "scal3r_ros"):
        shutil.copytree(ROOT / name, package / name, ignore=skip)
    for name in ("tf2_msgs", "grid_map_msgs"):
        if lacks(name):
            shutil.copytree(ROOT / "tools" / "overlay" / name, sources / name)
    return sources


def lacks(package: str) -> bool:
    """Whether the environment has no such ROS package."""
    if not has_own_ros():
        return True  # no wheel of them exists
    roots = os.environ.get("AMENT_PREFIX_PATH", "").split(":")
    index = "share/ament_index/resource_index/packages"
    return not any((Path(root) / index / package).exists() for root in roots if root)


def repair_exported_cmake() -> None:
    """The wheels export include paths of the container they were built in."""
    code = "import sysconfig, numpy; print(sysconfig.get_paths()['include']); "
    code += "print(numpy.get_include())"
    include, numpy_include = run(VENV / "bin" / "python", "-c", code).split()
    for path in (VENV / "share").glob("**/*.cmake"):
        text = path.read_text(errors="surrogateescape")
        if "/opt/python/cp" not in text:
            continue
        words = (repair_path(word, include, numpy_include) for word in split_paths(text))
        path.write_text("".join(words), errors="surrogateescape")


def split_paths(text: str) -> list[str]:
    """Cut into pieces so that a path of the build container stands alone."""
    import re

    return re.split(r"(/opt/python/cp[^;\"\s)]*)", text)


def repair_path(word: str, include: str, numpy_include: str) -> str:
    if not word.startswith("/opt/python/cp"):
        return word
    return numpy_include if "numpy" in word else include


def run(*command: object) -> str:
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
