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


def camera_of_info(info: Any) -> Camera | None:
    """A CameraInfo's calibration, None for an uncalibrated camera (K is zero); ROS pixel centres
    are integers, ours half-integers. Raises EncodingError for a model that is not known."""
    K = np.array(info.K if hasattr(info, "K") else info.k, dtype=np.float64).reshape(3, 3)
    if K[0, 0] <= 0 or K[1, 1] <= 0:
        return None
    K[:2, 2] += 0.5
    distortion = np.array(info.D if hasattr(info, "D") else info.d, dtype=np.float64)
    model = info.distortion_model
    if model not in MODELS and distortion.any():
        raise EncodingError(f"distortion_model must be one of {', '.join(MODELS)}, got {model!r}")
    fisheye = model in FISHEYE
    distortion = distortion[:4] if fisheye else distortion
    return Camera(int(info.width), int(info.height), K, distortion, fisheye)


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
