"""Calibration as it is told: CameraInfo and camera.yaml."""

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import Float
from numpy import ndarray

from scal3r_ros.data.encodings import EncodingError
from scal3r_ros.data.sequence import SequenceError
from scal3r_ros.geometry.camera import Camera, intrinsics

FISHEYE = ("equidistant", "fisheye")
MODELS = ("plumb_bob", "rational_polynomial", *FISHEYE)
MODEL_OF = {0: "none", 4: "plumb_bob", 5: "plumb_bob", 8: "rational_polynomial"}  # coefficients


def is_rectified(image_topic: str) -> bool:
    """By the name that image_proc gives it; it shares the raw one's CameraInfo."""
    name = image_topic.removesuffix("/compressed").rpartition("/")[2]
    return name.startswith("image_rect")


def camera_of_info(info: Any, *, rectified: bool = False) -> Camera | None:
    """Calibration of the images that a CameraInfo comes with, None for an uncalibrated camera (K is
    zero): by P and without distortion where they are rectified. ROS pixel centres are integers,
    ours half-integers. Raises EncodingError for a model that is not known."""
    field = str.upper if hasattr(info, "K") else str.lower
    k, d, p = (np.array(getattr(info, field(name)), dtype=np.float64) for name in "KDP")
    K = p.reshape(3, 4)[:, :3] if rectified else k.reshape(3, 3)
    if K[0, 0] <= 0 or K[1, 1] <= 0:
        return None
    roi, binning = info.roi, np.maximum([info.binning_x, info.binning_y], 1)
    # K is that of the whole sensor: the image begins at the region's corner, each pixel is a bin
    K[:2, 2] += 0.5 - np.array([roi.x_offset, roi.y_offset])
    K[:2] /= binning[:, None]
    size = np.array([roi.width or info.width, roi.height or info.height]) // binning
    try:
        distortion = np.zeros(0) if rectified else d
        return _camera(*size.tolist(), K, info.distortion_model, distortion)
    except ValueError as error:
        raise EncodingError(str(error)) from error


def read_camera(path: Path) -> Camera | None:
    """Of our own numbers or of what camera_calibration writes, both in OpenCV's convention; None
    where there is no file. Without a model, the number of its coefficients tells it."""
    if not path.exists():
        return None
    try:
        content = yaml.safe_load(path.read_text())
        if "camera_matrix" in content:
            K = np.array(content["camera_matrix"]["data"], dtype=np.float64).reshape(3, 3)
            size = content["image_width"], content["image_height"]
        else:
            K = intrinsics(*(float(content[name]) for name in ("fx", "fy", "cx", "cy")))
            size = content["width"], content["height"]
        width, height = map(int, size)
        told = content.get("distortion_coefficients") or []
        distortion = np.array(told["data"] if isinstance(told, dict) else told, dtype=np.float64)
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise SequenceError(
            f"{path} must give width, height, fx, fy, cx, cy as numbers, or be a file of "
            f"camera_calibration: {error!r}"
        ) from error
    K[:2, 2] += 0.5
    model = content.get("distortion_model") or MODEL_OF.get(len(distortion), "")
    try:
        return _camera(width, height, K, model, np.zeros(0) if model == "none" else distortion)
    except ValueError as error:
        raise SequenceError(f"{path}: {error}") from error


def _camera(
    width: int, height: int, K: Float[ndarray, "3 3"], model: str, distortion: Float[ndarray, " d"]
) -> Camera:
    """Raises ValueError for numbers that are none of the model's."""
    if not np.isfinite(K).all():
        raise ValueError(f"K must be finite, got {K.tolist()}")
    if model not in MODELS and distortion.any():
        raise ValueError(f"distortion_model must be one of {', '.join(MODELS)}, got {model!r}")
    fisheye = model in FISHEYE
    return Camera(width, height, K, distortion[:4] if fisheye else distortion, fisheye)
