"""Sequences on disk."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from scal3r_ros.data.tum import write_trajectory
from test.conftest import World


@pytest.fixture(scope="session")
def walk_folder(walk, tmp_path_factory) -> Path:
    """The rendered walk on disk, with exact depth."""
    return sequence_folder(walk, tmp_path_factory.mktemp("walk"))


def sequence_folder(walk: World, path: Path) -> Path:
    (path / "images").mkdir()
    (path / "depth").mkdir()
    for frame, depth in zip(walk.frames, walk.clip.depth.numpy(), strict=True):
        name = f"{frame.index:06d}.png"
        cv2.imwrite(str(path / "images" / name), frame.image[..., ::-1])
        millimetres = np.clip(1000 * depth, 0, 65535).astype(np.uint16)
        cv2.imwrite(str(path / "depth" / name), millimetres)
    K, (height, width) = walk.frames[0].K, walk.frames[0].image.shape[:2]
    (path / "times.txt").write_text("".join(f"{f.stamp_ns * 1e-9:.9f}\n" for f in walk.frames))
    (path / "camera.yaml").write_text(
        f"width: {width}\nheight: {height}\nfx: {K[0, 0]}\nfy: {K[1, 1]}\n"
        f"cx: {K[0, 2] - 0.5}\ncy: {K[1, 2] - 0.5}\n"
    )
    truth = zip((f.stamp_ns for f in walk.frames), walk.T_world_cam, strict=True)
    write_trajectory(path / "groundtruth.txt", dict(truth))
    return path
