"""SIFT features (Lowe 2004): slower than following corners, but blur and wide baselines do not
stop them."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy import ndarray

LOWE_RATIO = 0.8
UPSCALE_PX = 0.25  # by which SIFT's doubled image lies beside: cv2 reports it as it is


@dataclass(frozen=True, eq=False)
class LocalFeatures:
    uv: Float[ndarray, "n 2"]  # pixels, centres at half-integers
    descriptors: UInt8[ndarray, "n d"]  # as float32 they would take four times the memory


def local_features(grey: UInt8[ndarray, "h w"], count: int, contrast: float) -> LocalFeatures:
    """The strongest `count` features; `contrast` is SIFT's threshold, 0.04 in the paper."""
    octave, edge, sigma = 3, 10, 1.6  # the paper's, and OpenCV's usual ones
    sift = cv2.SIFT_create(
        count, octave, contrast, edge, sigma, cv2.CV_8U, enable_precise_upscale=False
    )
    points, descriptors = sift.detectAndCompute(grey, None)
    uv = np.array([p.pt for p in points]).reshape(-1, 2) + 0.5 - UPSCALE_PX
    none = descriptors is None
    return LocalFeatures(uv, np.zeros((0, 128), np.uint8) if none else np.asarray(descriptors))


def match_features(a: LocalFeatures, b: LocalFeatures) -> tuple[Int[ndarray, " n"], ...]:
    """Rows of a and of b: mutual nearest neighbours that pass Lowe's ratio test."""
    empty = np.zeros(0, np.int64)
    if len(a.uv) < 2 or len(b.uv) < 2:
        return empty, empty
    A, B = (features.descriptors.astype(np.float32) for features in (a, b))
    squared = (A * A).sum(1)[:, None] + (B * B).sum(1) - 2 * (A @ B.T)
    rows = np.arange(len(A))
    nearest = squared.argmin(axis=1)
    best = np.maximum(squared[rows, nearest], 0)
    mutual = squared.argmin(axis=0)[nearest] == rows
    squared[rows, nearest] = np.inf
    distinct = best < LOWE_RATIO**2 * squared.min(axis=1)
    kept = rows[mutual & distinct]
    return kept, nearest[kept]
