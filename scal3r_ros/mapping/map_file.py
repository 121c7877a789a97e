"""Maps on disk: point clouds that every tool reads, and everything needed to go on mapping."""

import hashlib
import io
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

from scal3r_ros.mapping.point_map import Cloud

PLY_POINT = np.dtype(
    [("xyz", "<f4", 3), ("rgb", "u1", 3), ("confidence", "<f4")],
)
PCD_POINT = np.dtype([("xyz", "<f4", 3), ("rgb", "<u4"), ("confidence", "<f4")])


def write_ply(path: Path, cloud: Cloud) -> None:
    """Binary PLY with x y z, red green blue and confidence; complete or not there at all."""
    points = np.zeros(len(cloud), PLY_POINT)
    points["xyz"], points["rgb"], points["confidence"] = cloud.xyz, cloud.rgb, cloud.confidence
    header = (
        "ply\nformat binary_little_endian 1.0\n"
        f"element vertex {len(cloud)}\n"
        "property float x\nproperty float y\nproperty float z\n"
        "property uchar red\nproperty uchar green\nproperty uchar blue\n"
        "property float confidence\nend_header\n"
    )
    write_atomically(path, header.encode() + points.tobytes())


def write_pcd(path: Path, cloud: Cloud) -> None:
    """Binary PCD 0.7 with x y z rgb confidence."""
    points = np.zeros(len(cloud), PCD_POINT)
    red, green, blue = cloud.rgb.astype(np.uint32).T if len(cloud) else np.zeros((3, 0), np.uint32)
    points["xyz"], points["confidence"] = cloud.xyz, cloud.confidence
    points["rgb"] = (red << 16) | (green << 8) | blue
    header = (
        "VERSION 0.7\nFIELDS x y z rgb confidence\nSIZE 4 4 4 4 4\nTYPE F F F U F\n"
        f"COUNT 1 1 1 1 1\nWIDTH {len(cloud)}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\n"
        f"POINTS {len(cloud)}\nDATA binary\n"
    )
    write_atomically(path, header.encode() + points.tobytes())


def write_npz(path: Path, cloud: Cloud) -> None:
    """xyz, rgb and confidence as NumPy arrays."""
    buffer = io.BytesIO()
    np.savez(buffer, xyz=cloud.xyz, rgb=cloud.rgb, confidence=cloud.confidence)
    write_atomically(path, buffer.getvalue())


def write_atomically(path: Path, content: bytes) -> None:
    """Beside the target first, then renamed: a crash leaves the old file or the new one."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def put_in_place(draft: Path, folder: Path) -> None:
    """Renames a finished folder, once it is on disk, to one that may exist: that stays until the
    new one has taken its place."""
    for path in (*draft.rglob("*"), draft):
        _to_disk(path)
    aside, replaces = draft.with_name(f"{draft.name}.old"), folder.exists()
    if replaces:
        folder.rename(aside)
    try:
        draft.rename(folder)
    except BaseException:
        if replaces:
            aside.rename(folder)
        raise
    _to_disk(folder.parent)
    if replaces:
        shutil.rmtree(aside)


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            found.update(block)
    return found.hexdigest()
