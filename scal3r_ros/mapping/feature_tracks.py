"""Corners followed through the frames of a chunk, and SIFT where they are lost."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from scal3r_ros.mapping.config import RefinementConfig
from scal3r_ros.mapping.local_features import LocalFeatures, local_features, match_features
from scal3r_ros.mapping.types import Frame

WINDOW = (17, 17)  # pixels of the Lucas-Kanade template
LEVELS = 4  # of the pyramid above the image: steps of 60 pixels are followed
MAX_RETURN_PX = 1.0  # forward and backward must end where they began
EPIPOLAR_PX = 1.5  # of neighbouring frames; moving things go
MIN_RESPONSE = 2e-4  # smallest eigenvalue of the structure tensor; sensor noise is below
WEAK_COUNT = 50  # corners: where fewer are followed, SIFT bridges the two frames
MIN_BRIDGE = 20  # matches on epipolar lines; fewer may well be chance
SIFT_FEATURES = 800
SIFT_WIDTH = 320  # pixels; larger images are halved
SIFT_CONTRAST = 0.015  # blurred images have weak features
CELLS = 8  # a side of the grid over which corners are spread


@dataclass(frozen=True, eq=False)
class FeatureTracks:
    """Observations of static points, sorted by track, then by frame."""

    frame: Int[ndarray, " n"]
    track: Int[ndarray, " n"]  # 0 .. count-1
    uv: Float[ndarray, "n 2"]  # pixels of the tracking size, centres at half-integers
    count: int
    size: tuple[int, int]  # (height, width) at which was tracked

    def select(self, keep: Bool[ndarray, " n"]) -> "FeatureTracks":
        """Some observations; tracks left with fewer than two go."""
        lengths = np.bincount(self.track[keep], minlength=self.count)
        keep = keep & (lengths[self.track] >= 2)
        names, track = np.unique(self.track[keep], return_inverse=True)
        return FeatureTracks(self.frame[keep], track, self.uv[keep], len(names), self.size)


@dataclass(eq=False)
class TrackedFrame:
    """A keyframe with the corners that were followed into it or born there."""

    name: int
    grey: UInt8[ndarray, "h w"]
    names: Int[ndarray, " n"]
    uv: Float[ndarray, "n 2"]  # cv2's pixels, centres at integers
    weak: bool  # most corners were lost on the way here
    sift: LocalFeatures | None = None  # once somebody asks

    def features(self) -> LocalFeatures:
        """From half the image, which SIFT doubles again: a third of the time, most matches."""
        if self.sift is None:
            halves = int(max(self.grey.shape) > SIFT_WIDTH)
            size = self.grey.shape[1] >> halves, self.grey.shape[0] >> halves
            small = cv2.resize(self.grey, size, interpolation=cv2.INTER_AREA)
            found = local_features(np.asarray(small), SIFT_FEATURES, SIFT_CONTRAST)
            uv = found.uv * (self.grey.shape[1] / size[0], self.grey.shape[0] / size[1])
            self.sift = LocalFeatures(uv, found.descriptors)
        return self.sift


class FeatureTracker:
    """Shi-Tomasi corners by pyramidal Lucas-Kanade, checked backward and by epipolar lines.

    Frames between which most corners are lost (blur, a sudden turn, a wide baseline) are bridged
    by SIFT matches, in tracks of their own. Frames that a chunk shares with the one before are not
    followed again.
    """

    def __init__(self) -> None:
        self._frames: list[TrackedFrame] = []  # of the chunk before
        self._born = 0

    def track(self, frames: Sequence[Frame], config: RefinementConfig) -> FeatureTracks:
        """Tracks through the frames; their index is their name."""
        done = self._known(frames, config)
        for frame in frames[len(done) :]:
            done.append(self._tracked(frame, done[-1] if done else None, config))
        self._frames = done
        bridges = _bridges(done)
        observed = [(k, f.names, f.uv + 0.5) for k, f in enumerate(done)]
        observed += [(k, self._born + names, uv) for k, names, uv in bridges]
        frame = np.concatenate([np.full(len(n), k) for k, n, _ in observed])
        _, track = np.unique(np.concatenate([n for _, n, _ in observed]), return_inverse=True)
        pixels = np.concatenate([p for _, _, p in observed]).astype(np.float64)
        order = np.lexsort((frame, track))
        count = int(track.max()) + 1 if len(track) else 0
        size = (done[0].grey.shape[0], done[0].grey.shape[1])
        tracks = FeatureTracks(frame[order], track[order], pixels[order], count, size)
        return tracks.select(np.ones(len(order), bool))

    @property
    def greys(self) -> list[UInt8[ndarray, "h w"]]:
        """Of the frames tracked last."""
        return [frame.grey for frame in self._frames]

    def _known(self, frames: Sequence[Frame], config: RefinementConfig) -> list[TrackedFrame]:
        """What is left of the chunk before, where it is the beginning of this one."""
        names = [f.name for f in self._frames]
        first = names.index(frames[0].index) if frames[0].index in names else len(names)
        left = self._frames[first:]
        same = names[first:] == [f.index for f in frames[: len(left)]]
        sized = all(f.grey.shape == _size(frames[0].image, config.max_width)[::-1] for f in left)
        return left if same and sized else []

    def _tracked(
        self, frame: Frame, before: TrackedFrame | None, config: RefinementConfig
    ) -> TrackedFrame:
        grey, weak = _grey(frame.image, config.max_width), False
        uv, names = np.zeros((0, 2), np.float32), np.zeros(0, np.int64)
        if before is not None:
            moved, kept = follow(before.grey, grey, before.uv)
            uv, names, weak = moved[kept], before.names[kept], bool(kept.sum() < WEAK_COUNT)
        fresh = spread_corners(grey, uv, config)
        names = np.concatenate([names, self._born + np.arange(len(fresh))])
        self._born += len(fresh)
        return TrackedFrame(frame.index, grey, names, np.concatenate([uv, fresh]), weak)


def _bridges(
    tracked: Sequence[TrackedFrame],
) -> list[tuple[int, Int[ndarray, " n"], Float[ndarray, "n 2"]]]:
    """SIFT tracks over the links into weak frames, and from their neighbours past them:
    (frame, track, pixels) of every frame that takes part."""
    weak = [k for k, frame in enumerate(tracked) if frame.weak]
    links = {(i, j) for k in weak for i, j in ((k - 1, k), (k - 2, k), (k - 1, k + 1))}
    links = sorted((i, j) for i, j in links if i >= 0 and j < len(tracked))
    frames = sorted({k for link in links for k in link})
    features = {k: tracked[k].features() for k in frames}
    sizes = [len(features[k].uv) for k in frames]
    first = dict(zip(frames, np.cumsum([0, *sizes[:-1]]), strict=False))
    edges = [np.zeros((2, 0), np.int64)]
    for i, j in links:
        a, b = _bridged(features[i], features[j])
        edges.append(np.stack([first[i] + a, first[j] + b]))
    a, b = np.concatenate(edges, axis=1)
    total = sum(sizes)
    graph = coo_matrix((np.ones(len(a)), (a, b)), shape=(total, total))
    _, track = connected_components(graph, directed=False)
    tracks = []
    for k in frames:
        names, row = np.unique(track[first[k] :][: len(features[k].uv)], return_index=True)
        tracks.append((k, names.astype(np.int64), features[k].uv[row]))
    return tracks


def _bridged(a: LocalFeatures, b: LocalFeatures) -> tuple[Int[ndarray, " n"], Int[ndarray, " n"]]:
    rows_a, rows_b = match_features(a, b)
    if len(rows_a) >= MIN_BRIDGE:
        good = on_epipolar_lines(a.uv[rows_a], b.uv[rows_b])
        rows_a, rows_b = rows_a[good], rows_b[good]
    enough = len(rows_a) >= MIN_BRIDGE
    return (rows_a, rows_b) if enough else (rows_a[:0], rows_b[:0])


def follow(
    before: UInt8[ndarray, "h w"],
    after: UInt8[ndarray, "h w"],
    uv: Float[ndarray, "n 2"],
) -> tuple[Float[ndarray, "n 2"], Bool[ndarray, " n"]]:
    """Where points went between two images, and which can be believed."""
    if len(uv) == 0:
        return uv, np.zeros(0, bool)
    start = uv.astype(np.float32).reshape(-1, 1, 2)
    settings = {"winSize": WINDOW, "maxLevel": LEVELS}
    moved, found, _ = cv2.calcOpticalFlowPyrLK(before, after, start, None, **settings)
    settings |= {"flags": cv2.OPTFLOW_USE_INITIAL_FLOW, "maxLevel": 1}
    back, found_back, _ = cv2.calcOpticalFlowPyrLK(after, before, moved, start.copy(), **settings)
    moved = moved[:, 0]
    kept = (found[:, 0] > 0) & (found_back[:, 0] > 0)
    kept &= np.linalg.norm(back[:, 0] - uv, axis=1) < MAX_RETURN_PX
    kept &= (moved >= 0).all(1) & (moved < np.array(after.shape[::-1]) - 1).all(1)
    if kept.sum() >= 16:
        kept[np.flatnonzero(kept)[~on_epipolar_lines(uv[kept], moved[kept])]] = False
    return moved, kept


def on_epipolar_lines(a: Float[ndarray, "n 2"], b: Float[ndarray, "n 2"]) -> Bool[ndarray, " n"]:
    """Matches that one camera motion explains; all of them where that cannot be said."""
    _, inlier = cv2.findFundamentalMat(a, b, cv2.FM_RANSAC, EPIPOLAR_PX, 0.999, 1000)
    return np.ones(len(a), bool) if inlier is None else inlier[:, 0] > 0


def spread_corners(
    grey: UInt8[ndarray, "h w"], taken: Float[ndarray, "n 2"], config: RefinementConfig
) -> Float[ndarray, "m 2"]:
    """New corners away from the ones there are, the strongest of every cell, cv2's pixels."""
    distance = max(3, round(config.min_distance * grey.shape[1]))
    response = cv2.cornerMinEigenVal(grey, 5)
    peaks = response >= cv2.dilate(response, _square(distance))
    peaks &= response > MIN_RESPONSE
    height, width = grey.shape
    free = np.ones((height, width), np.uint8)
    u, v = np.rint(taken).astype(np.int64).T
    free[v.clip(0, height - 1), u.clip(0, width - 1)] = 0
    free = np.asarray(cv2.erode(free, _square(round(0.7 * distance))))
    free[:8], free[-8:], free[:, :8], free[:, -8:] = 0, 0, 0, 0
    v, u = np.divmod(np.flatnonzero(peaks & (free > 0)), width)
    cell = _cells(u, v, grey.shape)
    have = np.bincount(_cells(taken[:, 0], taken[:, 1], grey.shape), minlength=CELLS**2)
    order = np.lexsort((-response[v, u], cell))
    first = np.searchsorted(cell[order], np.arange(CELLS**2))
    rank = np.arange(len(order)) - first[cell[order]]
    allowed = order[rank < (max(1, config.features // CELLS**2) - have)[cell[order]]]
    corners = np.stack([u[allowed], v[allowed]], 1).astype(np.float32)
    if len(corners):
        stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 10, 0.03)
        cv2.cornerSubPix(grey, corners, (3, 3), (-1, -1), stop)
    return corners


def _square(radius: int) -> UInt8[ndarray, "d d"]:
    return np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)


def _cells(
    u: Float[ndarray, " n"] | Int[ndarray, " n"],
    v: Float[ndarray, " n"] | Int[ndarray, " n"],
    shape: tuple[int, ...],
) -> Int[ndarray, " n"]:
    column = np.clip((u * CELLS / shape[1]).astype(np.int64), 0, CELLS - 1)
    row = np.clip((v * CELLS / shape[0]).astype(np.int64), 0, CELLS - 1)
    return row * CELLS + column


def _size(image: UInt8[ndarray, "h w 3"], max_width: int) -> tuple[int, int]:
    """(width, height) at which is tracked."""
    height, width = image.shape[:2]
    scale = min(1.0, max_width / max(height, width))
    return round(width * scale), round(height * scale)


def _grey(image: UInt8[ndarray, "h w 3"], max_width: int) -> UInt8[ndarray, "h2 w2"]:
    grey, size = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)), _size(image, max_width)
    if (grey.shape[1], grey.shape[0]) == size:
        return grey
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA))
