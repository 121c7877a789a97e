"""Sequences as folders that `data.folder` reads, with what a second sensor saw beside them."""

import logging
from collections.abc import Iterator
from collections.abc import Sequence as Row
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import yaml
from jaxtyping import Float, Float32, UInt8
from numpy import ndarray

from scal3r_ros.data.encodings import BitDepth
from scal3r_ros.data.folder import ImageFolder, is_image, read_image
from scal3r_ros.data.sequence import Sequence, SequenceError
from scal3r_ros.data.tum import decimal_seconds, write_trajectory
from scal3r_ros.geometry.camera import same_aspect
from scal3r_ros.mapping.types import Frame

logger = logging.getLogger(__name__)

MILLIMETRES = 1000  # of a depth image's unit


@dataclass(frozen=True, eq=False)
class StereoRig:
    """What a stereo camera and a depth sensor see of the same walk."""

    baseline: float  # metres to the right camera
    right: UInt8[ndarray, "s h w 3"]
    depth: Float32[ndarray, "s h w"]  # metres of the left camera, 0 = none


def write_sequence(
    folder: Path,
    images: UInt8[ndarray, "s h w 3"],
    T_world_cam: Float[ndarray, "s 4 4"],
    stamps_ns: Row[int],
    K: Float[ndarray, "3 3"] | None = None,
    rig: StereoRig | None = None,
) -> None:
    """RGB images as PNG; without K the camera is not calibrated. The truth is written last, so that
    a folder that has it is whole."""
    _write_images(folder / "images", images)
    (folder / "times.txt").write_text("".join(f"{decimal_seconds(s)}\n" for s in stamps_ns))
    if rig is not None:
        _write_images(folder / "right", rig.right)
        (folder / "depth").mkdir(exist_ok=True)
        for i, depth in enumerate(rig.depth):
            millimetres = np.round(depth * MILLIMETRES).clip(0, 65535).astype(np.uint16)
            cv2.imwrite(str(folder / "depth" / f"{i:06d}.png"), millimetres)
    if K is not None:
        height, width = images.shape[1:3]
        numbers = {"width": width, "height": height}
        for name, row, column in (("fx", 0, 0), ("fy", 1, 1), ("cx", 0, 2), ("cy", 1, 2)):
            corner = 0.5 if column == 2 else 0.0  # the file's pixel centres are integers
            numbers[name] = float(K[row, column]) - corner
        numbers |= {"baseline": rig.baseline} if rig is not None else {}
        (folder / "camera.yaml").write_text(yaml.safe_dump(numbers))
    write_trajectory(folder / "groundtruth.txt", dict(zip(stamps_ns, T_world_cam, strict=True)))


def _write_images(folder: Path, images: UInt8[ndarray, "s h w 3"]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        cv2.imwrite(str(folder / f"{i:06d}.png"), np.ascontiguousarray(image[..., ::-1]))


class SensorSequence(Sequence):
    """A folder of images with depth/ or right/ beside them, of the same names."""

    def __init__(self, folder: Path, sensor: str) -> None:
        """`sensor` is depth or stereo. Raises SequenceError where the folder has none."""
        super().__init__(ImageFolder(folder))
        name = {"depth": "depth", "stereo": "right"}[sensor]
        beside = folder / name
        if not beside.is_dir():
            raise SequenceError(f"{sensor} of a folder is read from {beside}, which is no folder")
        if self.camera is None:
            raise SequenceError(f"{sensor} needs {folder / 'camera.yaml'}")
        if np.any(self.camera.distortion != 0):
            raise SequenceError(f"{sensor} needs undistorted images: camera.yaml has distortion")
        self.sensor, self._files = sensor, files_beside(folder, name)
        if sensor == "stereo" and len(self._files) < len(self):
            raise SequenceError(f"{beside} must have all images, has {len(self._files)}")
        self.baseline = read_baseline(folder) if sensor == "stereo" else 0.0
        if sensor == "depth":
            read_depth(self._files[min(self._files)])  # of another type, they all are

    def __iter__(self) -> Iterator[Frame]:
        self._bits = BitDepth()
        alone: list[str] = []  # why, of each image
        for frame in super().__iter__():
            path = self._files.get(frame.index)
            try:
                yield frame if path is None else self._beside(frame, path)
            except SequenceError as error:
                alone.append(str(error))
                yield frame
        if alone:
            told = "%s: %d of %d images go without their %s; %s"
            logger.warning(told, self.name, len(alone), len(self), self.sensor, alone[0])

    def _beside(self, frame: Frame, path: Path) -> Frame:
        size = frame.image.shape[:2]
        if self.sensor == "depth":
            depth = read_depth(path)
            if not same_aspect(depth.shape, size):
                raise SequenceError(f"{path} {depth.shape} is not registered to an image {size}")
            return replace(frame, depth=depth)
        right = read_image(path, self._bits)
        if right.shape[:2] != size:
            raise SequenceError(f"{path} must be as large as the left image {size}")
        return replace(frame, right=right, baseline=self.baseline)


def files_beside(folder: Path, name: str) -> dict[int, Path]:
    """Images in depth/ or right/, by the position of the image of the same name; none without such
    a folder. Raises SequenceError where no image has the name of one of them."""
    beside = folder / name
    if not beside.is_dir():
        return {}
    positions = {file.stem: i for i, file in enumerate(ImageFolder(folder).files)}
    found = {
        positions[file.stem]: file
        for file in beside.iterdir()
        if is_image(file) and file.stem in positions
    }
    if not found:
        raise SequenceError(f"{beside} holds no image of the same name as one of {folder}")
    return found


def read_depth(path: Path) -> Float32[ndarray, "h w"]:
    """Metres, 0 = none, of 16-bit millimetres or 32-bit floating-point metres."""
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None or image.ndim != 2 or image.dtype not in (np.uint16, np.float32):
        found = "no image" if image is None else f"{image.dtype} of shape {image.shape}"
        raise SequenceError(
            f"{path} must be a one-channel depth image, uint16 millimetres or float32 metres, "
            f"got {found}"
        )
    if image.dtype == np.float32:
        return np.nan_to_num(image, nan=0, posinf=0, neginf=0)
    return (np.asarray(image) / MILLIMETRES).astype(np.float32)


def read_baseline(folder: Path) -> float:
    """Metres between the cameras of a stereo pair."""
    path = folder / "camera.yaml"
    try:
        return float(yaml.safe_load(path.read_text())["baseline"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise SequenceError(f"{path} must give `baseline`, metres: {error!r}") from error
