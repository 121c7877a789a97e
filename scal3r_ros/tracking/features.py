"""Corners and their motion between images, in pixels whose centres are at half-integers."""

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from numpy import ndarray

from scal3r_ros.geometry.camera import scale_intrinsics

Flow = tuple[Float[ndarray, "n 2"], Bool[ndarray, " n"]]  # where corners went, which are believed

WINDOW = (13, 13)  # pixels of the Lucas-Kanade template
LEVELS = 5  # of the pyramid above the image
MAX_RETURN_PX = 1.0  # forward and backward must end where they began
MIN_CONTRAST = 4.0  # grey levels, standard deviation of an image in which anything can be seen
CELLS = (6, 8)  # rows and columns over which corners are spread


def small_grey(
    image: UInt8[ndarray, "h w 3"], K: Float[ndarray, "3 3"], max_width: int
) -> tuple[UInt8[ndarray, "h2 w2"], Float[ndarray, "3 3"]]:
    """Grey, at most so wide, and the intrinsics in its pixels."""
    grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
    height, width = grey.shape
    if width <= max_width:
        return grey, K
    size = (max_width, round(height * max_width / width))
    grey = np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA))
    return grey, scale_intrinsics(K, (height, width), grey.shape)


def find_corners(
    grey: UInt8[ndarray, "h w"], taken: Float[ndarray, "n 2"], count: int
) -> Float[ndarray, "m 2"]:
    """Up to `count` Shi-Tomasi corners away from those taken, the strongest of every cell."""
    if grey.std() < MIN_CONTRAST or count <= 0:
        return np.zeros((0, 2))
    distance = max(4, round(0.015 * grey.shape[1]))
    free = np.full(grey.shape, 255, np.uint8)
    for u, v in taken:
        cv2.circle(free, (int(u), int(v)), distance, 0, -1)
    found = cv2.goodFeaturesToTrack(grey, 4 * count, 0.002, distance, mask=free, blockSize=5)
    if found is None:
        return np.zeros((0, 2))
    uv = np.asarray(found)[:, 0].astype(np.float64) + 0.5
    row = np.floor(uv[:, 1] * CELLS[0] / grey.shape[0])
    column = np.floor(uv[:, 0] * CELLS[1] / grey.shape[1])
    cell = (row * CELLS[1] + column).astype(np.int64)
    order = np.argsort(cell, kind="stable")  # strongest first within a cell
    first = np.searchsorted(cell[order], cell[order])
    rank = np.arange(len(order)) - first
    fair = order[np.argsort(rank, kind="stable")]  # the best of every cell, then the second ...
    return uv[fair[:count]]


def follow(
    before: UInt8[ndarray, "h w"],
    after: UInt8[ndarray, "h w"],
    uv: Float[ndarray, "n 2"],
    guess: Float[ndarray, "n 2"] | None = None,
) -> Flow:
    """Lucas-Kanade, forward and backward: where each corner went, and which can be believed."""
    if len(uv) == 0:
        return uv, np.zeros(0, bool)
    start: Float32[ndarray, "n 1 2"] = (uv - 0.5).astype(np.float32)[:, None]
    if guess is None:
        moved, found, _ = cv2.calcOpticalFlowPyrLK(  # type: ignore[call-overload]
            before, after, start, None, winSize=WINDOW, maxLevel=LEVELS
        )
    else:
        moved = (guess - 0.5).astype(np.float32)[:, None].copy()
        moved, found, _ = cv2.calcOpticalFlowPyrLK(
            before,
            after,
            start,
            moved,
            winSize=WINDOW,
            maxLevel=3,
            flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
        )
    back, returned, _ = cv2.calcOpticalFlowPyrLK(
        after,
        before,
        moved,
        start.copy(),
        winSize=WINDOW,
        maxLevel=0,
        flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
    )
    kept = (found[:, 0] > 0) & (returned[:, 0] > 0)
    kept &= np.linalg.norm((back - start)[:, 0], axis=1) < MAX_RETURN_PX
    ends = moved[:, 0].astype(np.float64) + 0.5
    kept &= (ends > 1).all(1) & (ends < np.array(after.shape[::-1]) - 1).all(1)
    return ends, kept


def sample_depth(
    depth: Float32[ndarray, "h w"], uv: Float[ndarray, "n 2"], size: tuple[int, ...]
) -> Float[ndarray, " n"]:
    """Depth at pixels of an image of `size` (height, width); 0 where there is none or an edge."""
    height, width = depth.shape
    u = np.floor(uv[:, 0] * width / size[1]).astype(np.int64)
    v = np.floor(uv[:, 1] * height / size[0]).astype(np.int64)
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    u, v = u.clip(0, width - 1), v.clip(0, height - 1)
    around = np.ones((3, 3), np.uint8)
    near = np.asarray(cv2.erode(depth, around))[v, u]  # none, 0, is nearest of all
    far = np.asarray(cv2.dilate(depth, around))[v, u]
    smooth = inside & (near > 0) & (far < 1.1 * near)
    return np.where(smooth, depth[v, u], 0.0).astype(np.float64)
