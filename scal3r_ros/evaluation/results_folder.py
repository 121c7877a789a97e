"""The folder that a run writes into: looked at, and made, before anything is computed."""

import shutil
import tempfile
from pathlib import Path

from scal3r_ros.data.rosbag import is_bag
from scal3r_ros.data.sequence import SequenceError

FILES = (  # of `scal3r map` and `scal3r replay`
    "map.ply",
    "mesh.ply",
    "map.png",
    "depth.png",
    "trajectory.txt",
    "keyframes.txt",
    "odometry.txt",
    "memory.safetensors",
    "report.json",
)
FOLDERS = {"bag": "metadata.yaml", "map": "map.json", "depth": ""}  # and what ours hold


def claim_folder(out: Path, source: Path, *, overwrite: bool = False) -> None:
    """Makes `out` for what is mapped from `source`. Raises SequenceError where that would write
    over the source, somebody else's files or, unless `overwrite`, an earlier run's."""
    _keep_apart(out.resolve(), source.resolve())
    _check_is_folder(out)
    there = [name for name in (*FILES, *FOLDERS) if (out / name).exists()]
    if there and not overwrite:
        raise SequenceError(
            f"{out} holds results already ({', '.join(there)}); pass --overwrite to replace them"
        )
    for name, mark in FOLDERS.items():
        folder = out / name
        if mark and folder.exists() and not (folder / mark).is_file() and any(folder.iterdir()):
            raise SequenceError(f"{folder} holds no {mark}, it is not ours: it is not replaced")
    out.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=out).close()  # an OSError now, not after an hour of mapping


def clear_results(out: Path) -> None:
    """Removes what an earlier run left, of which the new one may not write all."""
    for name in FILES:
        (out / name).unlink(missing_ok=True)
    for name, mark in FOLDERS.items():
        if mark and (out / name / mark).is_file():
            shutil.rmtree(out / name)
    depth = out / "depth"
    for path in depth.glob("[0-9]" * 6 + ".png"):
        path.unlink()
    if depth.is_dir() and not any(depth.iterdir()):
        depth.rmdir()


def _keep_apart(out: Path, source: Path) -> None:
    in_bag = is_bag(source) and out.is_relative_to(source)
    replaced = any(source.is_relative_to(out / name) for name in FOLDERS)
    if source == out or in_bag or replaced:
        raise SequenceError(f"results in {out} would write over the input {source}")


def _check_is_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise SequenceError(f"results go into a folder, but {out} is a file")


def empty_folder(out: Path, own: set[str], mark: str) -> None:
    """Makes `out`, or empties it where it holds `mark` and `own` names alone. Raises SequenceError
    where it holds anything else; then nothing of it is touched."""
    _check_is_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    there = {path.name for path in out.iterdir()}
    foreign = sorted(there - own)
    if there and (foreign or mark not in there):
        what = ", ".join(foreign[:3]) or f"no {mark}"
        raise SequenceError(
            f"{out} is not emptied, an earlier run has not made it ({what}); "
            "choose another folder with --out"
        )
    for path in sorted(out.iterdir(), key=lambda path: path.name == mark):  # the mark last
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
