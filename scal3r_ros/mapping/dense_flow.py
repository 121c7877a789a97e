"""Depth of every pixel from optical flow between frames whose poses are known."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from numpy import ndarray

from scal3r_ros.geometry.camera import pixel_centres
from scal3r_ros.geometry.sim3 import invert_pose

MAX_WIDTH = 256  # pixels at which is matched: more cost time and memory, the field is smooth
FLOW_SIGMA_PX = 0.35  # of DIS at a few hundred pixels of width
MAX_RETURN_PX = 1.0  # forward and backward flow must cancel
MAX_EPIPOLAR_PX = 1.5
MAX_SIGMA = 0.25  # of a log depth that is worth keeping
MIN_SIGMA = 0.02  # no log depth is believed to be better
AROUND = 31  # pixels of a side: many patches of the flow, whose errors even out
COARSE = 4
NOISE = 2.0  # deviations by which a pixel's inverse depth may differ from those around for nothing
PATCH = 9  # pixels of a side, about that of DIS
TEXTURE = 4.0  # grey levels a pixel, gradient at which flow counts half
MARGIN = 0.02  # of the width, at the rim: patches of the flow reach beyond the image there
AGREEMENT = 0.12  # log depth, between the two views of a pixel
LEAST_WAY, MAX_STEPS = 0.05, 4  # of the distance, between views that are compared; steps to there


@dataclass(frozen=True, eq=False)
class FlowDepth:
    """Triangulated log depth of one frame; information 0 where there is none."""

    log_depth: Float32[ndarray, "h w"]
    information: Float32[ndarray, "h w"]  # 1 / variance of the log depth

    def at_size(self, height: int, width: int) -> "FlowDepth":
        """Nearest neighbours: what lies between two surfaces is on neither."""
        if self.log_depth.shape == (height, width):
            return self
        maps = (self.log_depth, self.information)
        size, nearest = (width, height), cv2.INTER_NEAREST_EXACT
        return FlowDepth(*(np.asarray(cv2.resize(m, size, interpolation=nearest)) for m in maps))


@dataclass(frozen=True, eq=False)
class View:
    """A frame as flow sees it."""

    name: int  # of the frame, unique while it may come again
    grey: UInt8[ndarray, "h w"]
    K: Float[ndarray, "3 3"]
    T_submap_cam: Float[ndarray, "4 4"]
    distance: float  # of what it sees, the median


@dataclass(frozen=True, eq=False)
class Match:
    """Where every pixel of one frame lies in another: a fact of two images, whatever the poses."""

    uv: Float32[ndarray, "2 h w"]  # pixels of the other frame
    valid: Bool[ndarray, "h w"]  # the way back ends where it began


class DenseMatcher:
    """Matches frames, and keeps what it found for the frames that the next chunk shares.

    The images are matched as they are. Turned beforehand by the known rotation they would match
    more often, but where flow guesses, it guesses no motion: then a point far away, which is on
    every epipolar line, and no check would find it.
    """

    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._flow.setUseSpatialPropagation(True)
        self._flow.setVariationalRefinementIterations(0)  # half of the time, no better depth
        self._flow.setFinestScale(0)
        self._kept: dict[tuple[int, int], tuple[Match, Match]] = {}
        self._greys: dict[int, UInt8[ndarray, "h w"]] = {}

    def grey(
        self, name: int, large: UInt8[ndarray, "h w"], height: int, width: int
    ) -> UInt8[ndarray, "a b"]:
        """A frame as it is matched, from its grey image, made once."""
        kept = self._greys.get(name)
        if kept is not None and kept.shape == (height, width):
            return kept
        return np.asarray(cv2.resize(large, (width, height), interpolation=cv2.INTER_AREA))

    def match(self, frames: Sequence[tuple[int, UInt8[ndarray, "h w"]]]) -> None:
        """Matches neighbouring frames (name, image); what was matched before is kept, of frames
        that do not come again it is forgotten."""
        kept, self._kept = self._kept, {}
        self._greys = dict(frames)
        for (a, grey_a), (b, grey_b) in pairwise(frames):
            pair = kept.get((a, b))
            if pair is None or pair[0].valid.shape != grey_a.shape:
                pair = self._matched(grey_a, grey_b)
            self._kept[a, b] = pair

    def flow_depths(self, views: Sequence[View], first: int = 0) -> list[FlowDepth]:
        """One for every frame from the `first` on, from a view on either side."""
        self.match([(view.name, view.grey) for view in views])
        found = []
        for i in range(first, len(views)):
            sides = [self._seen(views[i:]), self._seen(views[i::-1])]
            fused = _fused([side for side in sides if side is not None])
            texture = _texture(views[i].grey)
            found.append(FlowDepth(fused.log_depth, fused.information * texture))
        return found

    def _seen(
        self, views: Sequence[View]
    ) -> tuple[Float32[ndarray, "h w"], Float32[ndarray, "h w"]] | None:
        """Log depth and information of the first view, from the next one; from one farther away,
        by flow from view to view, where the camera hardly moved."""
        if len(views) < 2:
            return None
        view, match, steps = views[0], self._between(*views[:2]), 1
        for a, b in pairwise(views[1 : MAX_STEPS + 1]):
            way = float(np.linalg.norm((a.T_submap_cam - view.T_submap_cam)[:3, 3]))
            if way > LEAST_WAY * view.distance:
                break
            match, steps = _chained(match, self._between(a, b)), steps + 1
        return triangulated(match, view, views[steps], FLOW_SIGMA_PX * float(np.sqrt(steps)))

    def _between(self, a: View, b: View) -> Match:
        pair = self._kept.get((a.name, b.name))
        return pair[0] if pair is not None else self._kept[b.name, a.name][1]

    def _matched(self, a: UInt8[ndarray, "h w"], b: UInt8[ndarray, "h w"]) -> tuple[Match, Match]:
        there, back = self._positions(a, b), self._positions(b, a)
        return _checked(there, back), _checked(back, there)

    def _positions(
        self, a: UInt8[ndarray, "h w"], b: UInt8[ndarray, "h w"]
    ) -> Float32[ndarray, "2 h w"]:
        there = grid(*a.shape).copy()
        there += np.moveaxis(self._flow.calc(a, b, None), -1, 0)
        return there


def matching_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) at which images are matched whose depth has this size."""
    scale = min(1.0, MAX_WIDTH / max(height, width))
    return round(height * scale), round(width * scale)


@cache
def grid(height: int, width: int) -> Float32[ndarray, "2 h w"]:
    return np.ascontiguousarray(np.moveaxis(pixel_centres(height, width), -1, 0), np.float32)


def _checked(there: Float32[ndarray, "2 h w"], back: Float32[ndarray, "2 h w"]) -> Match:
    at = there[0] - 0.5, there[1] - 0.5  # cv2's pixels
    valid = _rimless(*there.shape[1:]) & _inside(*there)
    for layer, start in zip(back, grid(*there.shape[1:]), strict=True):
        returned = cv2.remap(layer, *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        valid &= np.abs(returned - start) < MAX_RETURN_PX
    return Match(there, valid)


def _chained(first: Match, then: Match) -> Match:
    """From one frame by way of another to a third."""
    at = first.uv[0] - 0.5, first.uv[1] - 0.5
    uv = [cv2.remap(x, *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for x in then.uv]
    there = cv2.remap(then.valid.astype(np.uint8), *at, cv2.INTER_NEAREST)
    return Match(np.stack(uv), first.valid & (there > 0))


@cache
def _rimless(height: int, width: int) -> Bool[ndarray, "h w"]:
    return _inside(*grid(height, width))


def _inside(u: Float32[ndarray, "h w"], v: Float32[ndarray, "h w"]) -> Bool[ndarray, "h w"]:
    """Pixels of an image of that size, but for its rim."""
    (height, width), margin = u.shape, MARGIN * u.shape[1]
    return (u > margin) & (v > margin) & (u < width - margin) & (v < height - margin)


def _texture(grey: UInt8[ndarray, "h w"]) -> Float32[ndarray, "h w"]:
    """0 where flow is a guess between its neighbours, 1 where the image itself says it."""
    dx, dy = (cv2.Sobel(grey, cv2.CV_32F, *order, scale=0.125) for order in ((1, 0), (0, 1)))
    energy = cv2.boxFilter(dx * dx + dy * dy, -1, (PATCH, PATCH))
    return energy / (energy + TEXTURE**2)


def triangulated(
    match: Match, view: View, other: View, sigma_px: float = FLOW_SIGMA_PX
) -> tuple[Float32[ndarray, "h w"], Float32[ndarray, "h w"]]:
    """Log depth in `view` and its information.

    The other image shows a point at inverse depth w at the pixel (q + w e) / (q_z + w e_z), with
    q = K R K^-1 (u, v, 1) and e = K t: linear in w. How sure that is follows from the inverse
    depths around: from a pixel's own, those that err towards the camera would be the surest.
    """
    height, width = match.valid.shape
    T = invert_pose(other.T_submap_cam) @ view.T_submap_cam
    H = (other.K @ T[:3, :3] @ np.linalg.inv(view.K)).astype(np.float32)
    e = (other.K @ T[:3, 3]).astype(np.float32)
    u = np.arange(width, dtype=np.float32)[None] + 0.5
    v = np.arange(height, dtype=np.float32)[:, None] + 0.5
    q = [(row[0] * u + row[2]) + row[1] * v for row in H]
    a = [e[k] - match.uv[k] * e[2] for k in (0, 1)]  # a and b: pixels times q_z
    b = [match.uv[k] * q[2] - q[k] for k in (0, 1)]
    z = np.maximum(q[2], 0.1, out=q[2])
    normal = a[0] * a[0]
    normal += a[1] * a[1]
    np.maximum(normal, 1e-12, out=normal)
    across = np.abs(a[0] * b[1] - a[1] * b[0])  # times the length of a: from the epipolar line
    inverse = a[0] * b[0]
    inverse += a[1] * b[1]
    inverse /= normal
    length = np.sqrt(normal, out=normal)
    valid = match.valid & (across < MAX_EPIPOLAR_PX * length * z)
    per_inverse = length / (z * sigma_px)
    certain = per_inverse * inverse  # 1 / sigma of the log depth
    per_inverse *= _around(inverse, valid)
    per_inverse -= certain
    certain += np.clip(per_inverse, -NOISE, NOISE, out=per_inverse)
    valid &= (inverse > 1e-9) & (certain > 1 / MAX_SIGMA)
    information = np.minimum(certain, 1 / MIN_SIGMA)
    information *= information
    information[~valid] = 0
    return -np.log(np.maximum(inverse, 1e-9)), information


def _around(x: Float32[ndarray, "h w"], valid: Bool[ndarray, "h w"]) -> Float32[ndarray, "h w"]:
    """Mean of the valid values in a window, no less than 0; from every fourth pixel, for it is
    smooth."""
    seen = valid[::COARSE, ::COARSE].astype(np.float32)
    side = AROUND // COARSE
    total, count = (
        cv2.boxFilter(y, -1, (side, side), normalize=False, borderType=cv2.BORDER_CONSTANT)
        for y in (x[::COARSE, ::COARSE] * seen, seen)
    )
    mean = np.maximum(total, 0) / np.maximum(count, 1)
    return np.asarray(cv2.resize(mean, x.shape[::-1], interpolation=cv2.INTER_LINEAR))


def _fused(
    views: Sequence[tuple[Float32[ndarray, "h w"], Float32[ndarray, "h w"]]],
) -> FlowDepth:
    """Weighted mean of two views; a pixel that one alone saw counts half, of two that contradict
    each other nothing is known."""
    (a, information_a), (b, information_b) = views[0], views[-1]
    if len(views) == 1:
        return FlowDepth(a, 0.5 * information_a)
    both = (information_a > 0) & (information_b > 0)
    total = information_a + information_b
    mean = (information_a * a + information_b * b) / np.maximum(total, 1e-12)
    total[~both] *= 0.5
    total[both & (np.abs(a - b) >= AGREEMENT)] = 0
    return FlowDepth(mean, total)
