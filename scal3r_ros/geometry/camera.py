"""Pinhole cameras: pixel centres at half-integers, optical axes (x right, y down, z forward)."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

DISTORTION_LENGTHS = (0, 4, 5, 8, 12, 14)  # that OpenCV knows
ASPECT_TOLERANCE = 0.02  # sizes are rounded to whole pixels


@dataclass(frozen=True, eq=False)
class Camera:
    """Calibration of one camera. K is for half-integer pixel centres; distortion is OpenCV's
    plumb_bob or rational_polynomial vector (k1 k2 p1 p2 k3 ...), empty for none, or the four
    numbers of the equidistant model (Kannala 2006) of a fisheye. What lacks at its end is zero."""

    width: int
    height: int
    K: Float[ndarray, "3 3"]
    distortion: Float[ndarray, " d"]
    fisheye: bool = False

    def same_as(self, other: "Camera") -> bool:
        return (
            (self.width, self.height, self.fisheye) == (other.width, other.height, other.fisheye)
            and np.array_equal(self.K, other.K)
            and np.array_equal(self.distortion, other.distortion)
        )

    def __post_init__(self) -> None:
        if not (self.K[0, 0] > 0 and self.K[1, 1] > 0):
            raise ValueError(f"focal lengths must be positive, got {self.K[0, 0]}, {self.K[1, 1]}")
        known, given = (0, 4) if self.fisheye else DISTORTION_LENGTHS, len(self.distortion)
        length = next((n for n in known if n >= given), None)
        if length is None or not np.isfinite(self.distortion).all():
            what = f"at most {known[-1]} finite numbers of distortion"
            raise ValueError(f"{what} are expected, got {self.distortion.tolist()}")
        object.__setattr__(self, "distortion", np.pad(self.distortion, (0, length - given)))


def intrinsics(fx: float, fy: float, cx: float, cy: float) -> Float[ndarray, "3 3"]:
    return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])


def scale_intrinsics(
    K: Float[ndarray, "*batch 3 3"], from_size: tuple[int, int], to_size: tuple[int, int]
) -> Float[ndarray, "*batch 3 3"]:
    """K of an image resized from (height, width) to (height, width), pixels."""
    scale = np.array([to_size[1] / from_size[1], to_size[0] / from_size[0], 1.0])
    return K * scale[:, None]  # half-integer centres: cx scales like fx


def same_aspect(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether images of these (height, width) may be of one view, as registered depth is."""
    return abs(size[1] * other[0] / (size[0] * other[1]) - 1) <= ASPECT_TOLERANCE


def pixel_centres(height: int, width: int) -> Float[ndarray, "h w 2"]:
    """(u, v) of every pixel centre."""
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return np.stack([u, v], axis=-1)


def rays(xy: Float[ndarray, "n 2"]) -> Float[ndarray, "n 3"]:
    """(x, y, 1) of normalised image coordinates."""
    return np.concatenate([xy, np.ones((len(xy), 1))], axis=1)


def unproject(
    depth: Float[ndarray, "*batch h w"], K: Float[ndarray, "*batch 3 3"]
) -> Float[ndarray, "*batch h w 3"]:
    """Camera-frame point of every pixel; depth is along z."""
    uv = pixel_centres(*depth.shape[-2:])
    x = (uv[..., 0] - K[..., 0, 2, None, None]) / K[..., 0, 0, None, None]
    y = (uv[..., 1] - K[..., 1, 2, None, None]) / K[..., 1, 1, None, None]
    return np.stack([x * depth, y * depth, np.broadcast_to(depth, x.shape)], axis=-1)


def unproject_pixels(
    uv: Float[ndarray, "n 2"], depth: Float[ndarray, " n"], K: Float[ndarray, "3 3"]
) -> Float[ndarray, "n 3"]:
    """Camera-frame points of chosen pixels."""
    xy = (uv - K[:2, 2]) / K[[0, 1], [0, 1]]
    return rays(xy) * depth[:, None]


def project(
    xyz_cam: Float[ndarray, "*batch 3"], K: Float[ndarray, "3 3"]
) -> Float[ndarray, "*batch 2"]:
    """Pixels of camera-frame points; points at or behind the camera give NaN."""
    z = np.where(xyz_cam[..., 2] > 0, xyz_cam[..., 2], np.nan)
    return xyz_cam[..., :2] / z[..., None] * K[[0, 1], [0, 1]] + K[:2, 2]


def transform_points(
    T_a_b: Float[ndarray, "4 4"], xyz_b: Float[ndarray, "*batch 3"]
) -> Float[ndarray, "*batch 3"]:
    """Rigid transform of points."""
    return xyz_b @ T_a_b[:3, :3].T + T_a_b[:3, 3]
