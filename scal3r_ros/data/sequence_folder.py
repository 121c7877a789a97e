"""Images, times and truth as a folder that `data.sequence` reads."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from scal3r_ros.data.tum import write_trajectory


def write_sequence(
    folder: Path,
    images: UInt8[ndarray, "s h w 3"],
    T_world_cam: Float[ndarray, "s 4 4"],
    stamps_ns: Sequence[int],
) -> None:
    """RGB images as PNG; the truth is written last, so that a folder that has it is whole."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        cv2.imwrite(str(folder / "images" / f"{i:06d}.png"), np.ascontiguousarray(image[..., ::-1]))
    (folder / "times.txt").write_text("".join(f"{stamp * 1e-9:.9f}\n" for stamp in stamps_ns))
    write_trajectory(folder / "groundtruth.txt", dict(zip(stamps_ns, T_world_cam, strict=True)))
