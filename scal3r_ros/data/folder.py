"""Folders of images, with or without stamps and calibration."""

import re
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path

import cv2
from jaxtyping import UInt8
from numpy import ndarray

from scal3r_ros.data.calibration import read_camera
from scal3r_ros.data.encodings import ANY_DEPTH, BitDepth, EncodingError, to_rgb
from scal3r_ros.data.sequence import RawImage, SequenceError, reindex_hint

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
MAX_STAMP_NS = 1 << 63  # the year 2262
NOMINAL_NS = 100_000_000  # 10 Hz where a folder has no stamps


class ImageFolder:
    """`images/` with `times.txt` and `camera.yaml` beside it, or just images."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        folder = path / "images" if (path / "images").is_dir() else path
        self.files = sorted(
            (path for path in folder.iterdir() if is_image(path)), key=natural_order
        )
        if not self.files:
            kinds = ", ".join(IMAGE_SUFFIXES)
            raise SequenceError(f"{folder} holds no images ({kinds}){reindex_hint(folder)}")
        self.stamps_ns = self._stamps(path / "times.txt")
        self.camera = read_camera(path / "camera.yaml")

    def __len__(self) -> int:
        return len(self.files)

    def images(self) -> Iterator[RawImage | SequenceError]:
        bits = BitDepth()
        for stamp_ns, file in zip(self.stamps_ns, self.files, strict=True):
            try:
                yield RawImage(stamp_ns, read_image(file, bits))
            except SequenceError as error:
                yield error

    def _stamps(self, path: Path) -> list[int]:
        if not path.exists():
            return [i * NOMINAL_NS for i in range(len(self.files))]
        words = [line.split() for line in path.read_text(errors="replace").splitlines()]
        lines = [line[0] for line in words if line and not line[0].startswith("#")]
        if len(lines) != len(self.files):
            raise SequenceError(
                f"{path} must have a line per image: {len(self.files)} images, {len(lines)} lines"
            )
        return [stamp_ns(text, str(path)) for text in lines]


def is_image(path: Path) -> bool:
    """By its name; macOS leaves hidden ._NAME.jpg beside NAME.jpg."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def read_image(path: Path, bits: BitDepth) -> UInt8[ndarray, "h w 3"]:
    """RGB. Raises SequenceError for what is no image."""
    try:
        pixels = cv2.imread(str(path), ANY_DEPTH)
        if pixels is not None:
            return to_rgb(pixels, bits)
        why = ""
    except (cv2.error, EncodingError) as error:
        why = f": {error}"
    raise SequenceError(f"{path} cannot be read as an image{why}")


def stamp_ns(text: str, where: str) -> int:
    """Nanoseconds of a decimal number of seconds, exact: floats would lose 73 ns."""
    try:
        nanoseconds = int((Decimal(text) * 1_000_000_000).to_integral_value())
    except (InvalidOperation, ValueError, OverflowError):  # no number, NaN, infinity
        nanoseconds = MAX_STAMP_NS
    if abs(nanoseconds) >= MAX_STAMP_NS:
        raise SequenceError(f"{where}: a stamp in seconds was expected, got {text!r}")
    return nanoseconds


def natural_order(path: Path) -> list[tuple[int, int | str]]:
    """image2 before image10."""
    parts = re.split(r"(\d+)", path.name)
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts]
