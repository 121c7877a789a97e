"""Calibration as it is told: CameraInfo and camera.yaml."""

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from scal3r_ros.data.encodings import EncodingError
from scal3r_ros.data.sequence import SequenceError
from scal3r_ros.geometry.camera import Camera, intrinsics

FISHEYE = ("equidistant", "fisheye")
MODELS = ("plumb_bob", "rational_polynomial", *FISHEYE)


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
    model, distortion = info.distortion_model, np.zeros(0) if rectified else d
    if model not in MODELS and distortion.any():
        raise EncodingError(f"distortion_model must be one of {', '.join(MODELS)}, got {model!r}")
    roi, binning = info.roi, np.maximum([info.binning_x, info.binning_y], 1)
    # K is that of the whole sensor: the image begins at the region's corner, each pixel is a bin
    K[:2, 2] += 0.5 - np.array([roi.x_offset, roi.y_offset])
    K[:2] /= binning[:, None]
    size = np.array([roi.width or info.width, roi.height or info.height]) // binning
    fisheye = model in FISHEYE
    distortion = distortion[:4] if fisheye else distortion
    return Camera(int(size[0]), int(size[1]), K, distortion, fisheye)


def read_camera(path: Path) -> Camera | None:
    """Calibration in OpenCV's convention (integer pixel centres), None where there is no file."""
    if not path.exists():
        return None
    try:
        content = yaml.safe_load(path.read_text())
        K = intrinsics(*(float(content[name]) for name in ("fx", "fy", "cx", "cy")))
        width, height = int(content["width"]), int(content["height"])
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise SequenceError(
            f"{path} must give width, height, fx, fy, cx, cy as numbers: {error!r}"
        ) from error
    model = content.get("distortion_model") or "none"
    if model not in ("none", "plumb_bob", "rational_polynomial"):
        raise SequenceError(f"{path}: distortion_model must be none or plumb_bob, got {model}")
    distortion = np.array(content.get("distortion_coefficients") or [], dtype=np.float64)
    K[:2, 2] += 0.5
    return Camera(width, height, K, distortion if model != "none" else np.zeros(0))
