"""Image sequences on disk, all in one form: an iterator over undistorted frames."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from scal3r_ros.geometry.camera import Camera
from scal3r_ros.mapping.types import Frame

logger = logging.getLogger(__name__)

VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")
BAG_SUFFIXES = (".mcap", ".db3")


class SequenceError(ValueError):
    """Input that cannot be read as a sequence, in one line."""


def reindex_hint(folder: Path) -> str:
    """What to do with a bag whose metadata.yaml is missing, as where recording was cut short."""
    if not any(path.suffix in BAG_SUFFIXES for path in folder.glob("*")):
        return ""
    return f"; a bag without its metadata.yaml is made whole by `ros2 bag reindex {folder}`"


@dataclass(frozen=True, eq=False)
class RawImage:
    """An image as it lies on disk, with its stamp."""

    stamp_ns: int
    image: UInt8[ndarray, "h w 3"]


@runtime_checkable
class Source(Protocol):
    """What a folder, a video or a bag gives."""

    name: str
    camera: Camera | None

    def __len__(self) -> int: ...

    def images(self) -> Iterator[RawImage | SequenceError]:
        """Every image in its turn, or why it cannot be read."""
        ...


class Sequence:
    """Frames of a source: undistorted, sizes and stamps checked. As in the nodes, an image that
    cannot be used is left out; how many were, and why, is said at the end."""

    def __init__(self, source: Source) -> None:
        if len(source) == 1:
            raise SequenceError(f"{source.name}: at least 2 images are needed, got 1")
        self.source = source
        self.name, self.camera = source.name, source.camera
        self.left_out: list[str] = []  # why, of each image of the latest pass that was

    def __len__(self) -> int:
        return len(self.source)

    def __iter__(self) -> Iterator[Frame]:
        undistort = Undistorter(self.camera) if self.camera is not None else None
        self.left_out = []
        used, last_ns = 0, None
        for index, raw in enumerate(self.source.images()):
            try:
                frame = _frame(index, raw, last_ns, undistort)
            except SequenceError as error:
                self.left_out.append(f"image {index}: {error}")
                continue
            used, last_ns = used + 1, frame.stamp_ns
            yield frame
        self._conclude(used)

    def _conclude(self, used: int) -> None:
        if not self.left_out:
            return
        count = f"{len(self.left_out)} of {len(self)} images cannot be used"
        if used < 2:
            raise SequenceError(f"{self.name}: {count}; {self.left_out[0]}")
        logger.warning("%s: %s, they are left out; %s", self.name, count, self.left_out[0])


def _frame(
    index: int, raw: RawImage | SequenceError, last_ns: int | None, undistort: "Undistorter | None"
) -> Frame:
    if isinstance(raw, SequenceError):
        raise raw
    if last_ns is not None and raw.stamp_ns <= last_ns:
        raise SequenceError(f"stamps must increase, got {raw.stamp_ns} ns after {last_ns} ns")
    if undistort is None:
        return Frame(index, raw.stamp_ns, raw.image)
    return Frame(index, raw.stamp_ns, undistort(raw.image), undistort.K)


class Undistorter:
    """Removes lens distortion and keeps K; without distortion images pass as they are."""

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        self.K: Float[ndarray, "3 3"] = camera.K
        self._maps = None
        if camera.distortion.size and np.any(camera.distortion != 0):
            K_cv = camera.K.copy()
            K_cv[:2, 2] -= 0.5  # OpenCV's pixel centres are integers
            size = (camera.width, camera.height)
            make = cv2.fisheye.initUndistortRectifyMap if camera.fisheye else None
            make = make or cv2.initUndistortRectifyMap
            turn = np.eye(3) if camera.fisheye else None
            self._maps = make(K_cv, camera.distortion, turn, K_cv, size, cv2.CV_16SC2)

    def __call__(self, image: UInt8[ndarray, "h w 3"]) -> UInt8[ndarray, "h w 3"]:
        if image.shape[:2] != (self.camera.height, self.camera.width):
            raise SequenceError(
                f"the camera is {self.camera.width}x{self.camera.height}, "
                f"the image {image.shape[1]}x{image.shape[0]}"
            )
        if self._maps is None:
            return image
        return np.asarray(cv2.remap(image, *self._maps, cv2.INTER_LINEAR))


def open_sequence(path: Path, topic: str = "") -> Sequence:
    """A folder of images, a sequence folder, a video or a rosbag2, by what lies there."""
    from scal3r_ros.data.folder import ImageFolder
    from scal3r_ros.data.rosbag import BagImages, is_bag
    from scal3r_ros.data.video import VideoFile

    if not path.exists():
        raise SequenceError(f"{path} does not exist")
    if is_bag(path):
        return Sequence(BagImages(path, topic))
    if path.is_dir():
        return Sequence(ImageFolder(path))
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return Sequence(VideoFile(path))
    raise SequenceError(
        f"{path} must be a folder of images, a video ({', '.join(VIDEO_SUFFIXES)}) or a rosbag2"
    )
