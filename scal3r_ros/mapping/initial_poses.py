"""First poses of a chunk from its feature tracks, in the scale of the predicted depth."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from scal3r_ros.geometry.camera import scale_intrinsics
from scal3r_ros.mapping.feature_tracks import FeatureTracks
from scal3r_ros.mapping.measured_depth import SIGMA as MEASURED_SIGMA
from scal3r_ros.mapping.measured_depth import MeasuredDepth
from scal3r_ros.mapping.types import Chunk, Prediction

MIN_COMMON = 24  # tracks that two frames must share
MIN_PNP = 12
MIN_PARALLAX_PX = 4.0  # median, without the common rotation, of the pair that starts
RANSAC_PX = 2.0
DEPTH_SIGMA = 0.3  # of the predicted log depth
BENT_SIGMA = 1.0  # where the focal length is unknown: what bends it bends the depth too
FREE_SIGMA = 100.0
PIXEL_SIGMA = 1.0
DEPTH_RANGE = 30.0  # furthest from the median prediction, factor


@dataclass(frozen=True, eq=False)
class Observations:
    """Feature tracks as rays, with the depth that is measured or predicted for each of them."""

    tracks: FeatureTracks
    xy: Float[ndarray, "n 2"]  # normalised image coordinates
    focal: Float[ndarray, "s 2"]  # pixels of the tracking size
    depth: Float[ndarray, " n"]  # 0 = none
    depth_sigma: Float[ndarray, " n"]  # of its logarithm
    focal_sigma: float = 0.0  # of the log focal length; 0: the camera is calibrated

    def select(self, keep: Bool[ndarray, " n"]) -> "Observations":
        tracks = self.tracks.select(keep)
        lengths = np.bincount(self.tracks.track[keep], minlength=self.tracks.count)
        keep = keep & (lengths[self.tracks.track] >= 2)
        rows = self.xy[keep], self.focal, self.depth[keep], self.depth_sigma[keep]
        return Observations(tracks, *rows, self.focal_sigma)

    def zoomed(self, log_focal: float) -> "Observations":
        """With another focal length."""
        zoom = np.exp(log_focal)
        return replace(self, xy=self.xy / zoom, focal=self.focal * zoom)

    @property
    def median_depth(self) -> float:
        known = self.depth[self.depth > 0]
        return float(np.median(known)) if len(known) else 1.0


def observe(
    chunk: Chunk,
    prediction: Prediction,
    measured: MeasuredDepth | None,
    tracks: FeatureTracks,
    focal_sigma: float = 0.0,
) -> Observations:
    """Rays by the camera's own K where it is known; depth at the pixel."""
    predicted_sigma = BENT_SIGMA if focal_sigma > 0 else DEPTH_SIGMA
    height, width = prediction.depth.shape[1:]
    K = np.stack(
        [
            scale_intrinsics(k, (height, width), tracks.size)
            if frame.K is None
            else scale_intrinsics(frame.K, frame.image.shape[:2], tracks.size)
            for frame, k in zip(chunk.frames, prediction.K, strict=True)
        ]
    )
    focal, centre = K[:, [0, 1], [0, 1]], K[:, :2, 2]
    xy = (tracks.uv - centre[tracks.frame]) / focal[tracks.frame]
    scale = np.array([width / tracks.size[1], height / tracks.size[0]])
    u, v = np.floor(tracks.uv * scale).astype(np.int64).T
    at = tracks.frame, v.clip(0, height - 1), u.clip(0, width - 1)
    if measured is None:
        depth, sigma = prediction.depth[at], np.full(len(xy), predicted_sigma)
    else:
        depth = measured.among(prediction)[at]
        sigma = np.where(measured.smooth[at], MEASURED_SIGMA, predicted_sigma)
    return Observations(tracks, xy, focal, depth.astype(np.float64), sigma, focal_sigma)


def anchors(
    observations: Observations, allowed: Bool[ndarray, " s"]
) -> tuple[Int[ndarray, " m"], Bool[ndarray, " m"]]:
    """Row of the first observation of every track in an allowed frame, and whether there is one."""
    tracks = observations.tracks
    rows = np.flatnonzero(allowed[tracks.frame])
    names = tracks.track[rows]  # sorted
    begins = np.diff(names, prepend=-1) > 0
    anchor = np.zeros(tracks.count, np.int64)
    anchor[names[begins]] = rows[begins]
    has = np.zeros(tracks.count, bool)
    has[names] = True
    return anchor, has


def triangulate(
    observations: Observations,
    T_submap_cam: Float[ndarray, "s 4 4"],
    allowed: Bool[ndarray, " s"],
    *,
    free: bool = False,
    wanted: Bool[ndarray, " m"] | None = None,
) -> Float[ndarray, " m"]:
    """Depth of every track along the ray of its anchor: linear least squares in inverse depth,
    with the known depth as prior (next to none where `free`). Tracks without anchor get the median,
    tracks that are not wanted their prior."""
    tracks, xy = observations.tracks, observations.xy
    anchor, _ = anchors(observations, allowed)
    used = allowed[tracks.frame] & (anchor[tracks.track] != np.arange(len(xy)))
    rows = np.flatnonzero(used if wanted is None else used & wanted[tracks.track])
    a_row = anchor[tracks.track[rows]]
    T_a, T_j = T_submap_cam[tracks.frame[a_row]], T_submap_cam[tracks.frame[rows]]
    R_j_submap = T_j[:, :3, :3].transpose(0, 2, 1)
    ray = np.concatenate([xy[a_row], np.ones((len(rows), 1))], 1)
    turned = np.einsum("nij,njk,nk->ni", R_j_submap, T_a[:, :3, :3], ray)
    moved = np.einsum("nij,nj->ni", R_j_submap, T_a[:, :3, 3] - T_j[:, :3, 3])
    # x = (turned + moved / depth) projected: linear in the inverse depth
    A = moved[:, :2] - xy[rows] * moved[:, 2:]
    B = xy[rows] * turned[:, 2:] - turned[:, :2]
    scale = 1 / np.maximum(turned[:, 2], 0.1)  # rows in units of the image plane
    weight = (observations.focal[tracks.frame[rows]].mean(1) * scale / PIXEL_SIGMA) ** 2
    median = observations.median_depth
    predicted = observations.depth[anchor]
    inverse = 1 / np.where(predicted > 0, predicted, median)
    sigma = np.full(tracks.count, FREE_SIGMA) if free else observations.depth_sigma[anchor]
    prior = (1 / (inverse * sigma)) ** 2
    normal = np.bincount(tracks.track[rows], weight * (A * A).sum(1), tracks.count) + prior
    right = np.bincount(tracks.track[rows], weight * (A * B).sum(1), tracks.count)
    found = (right + prior * inverse) / normal
    return 1 / np.clip(found, 1 / (median * DEPTH_RANGE), DEPTH_RANGE / median)


def pair_with_parallax(observations: Observations) -> tuple[int, int] | None:
    """Frames with many common tracks that moved apart by more than a rotation explains."""
    tracks = observations.tracks
    s = len(observations.focal)
    row = np.full((s, tracks.count), -1)
    row[tracks.frame, tracks.track] = np.arange(len(tracks.frame))
    typical = np.median((row >= 0).sum(1))
    best, choice = MIN_PARALLAX_PX, None
    for i in range(s):
        for j in range(i + 1, s):
            both = (row[i] >= 0) & (row[j] >= 0)
            if both.sum() < max(MIN_COMMON, 0.15 * typical):
                continue
            a, b = observations.xy[row[i, both]], observations.xy[row[j, both]]
            parallax = _parallax_px(a, b, observations.focal[j].mean())
            score = min(parallax, 60.0) * min(1.0, both.sum() / (0.5 * typical))
            if parallax > MIN_PARALLAX_PX and score > best:
                best, choice = score, (i, j)
    return choice


def _parallax_px(a: Float[ndarray, "n 2"], b: Float[ndarray, "n 2"], focal: float) -> float:
    """Median motion that remains after the best common rotation."""
    rays = [np.concatenate([x, np.ones((len(x), 1))], 1) for x in (a, b)]
    rays = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in rays]
    U, _, Vt = np.linalg.svd(rays[1].T @ rays[0])
    R = (U * [1, 1, np.linalg.det(U @ Vt)]) @ Vt
    return focal * float(np.median(np.linalg.norm(rays[1] - rays[0] @ R.T, axis=1)))


def poses_by_five_points(
    observations: Observations, motion: Float[ndarray, "pairs 4 4"]
) -> Float[ndarray, "s 4 4"] | None:
    """Essential matrix of the best pair, scaled to the predicted depth, then PnP for the others;
    None without parallax."""
    pair = pair_with_parallax(observations)
    if pair is None:
        return None
    relative = _relative_pose(observations, *pair)
    if relative is None:
        return None
    T = np.tile(np.eye(4), (len(observations.focal), 1, 1))
    T[pair[1]] = relative
    placed = np.zeros(len(T), bool)
    placed[list(pair)] = True
    free = triangulate(observations, T, placed, free=True)
    anchor, _ = anchors(observations, placed)
    seen = np.bincount(observations.tracks.track[placed[observations.tracks.frame]]) == 2
    seen = np.pad(seen, (0, observations.tracks.count - len(seen)))
    seen &= observations.depth[anchor] > 0
    ratio = np.log(observations.depth[anchor][seen] / free[seen])
    T[pair[1], :3, 3] *= np.exp(np.median(ratio)) if len(ratio) else 1.0
    return place_all(observations, T, placed, motion)


def _relative_pose(observations: Observations, i: int, j: int) -> Float[ndarray, "4 4"] | None:
    """T_i_j with unit baseline."""
    tracks = observations.tracks
    in_i, in_j = (np.flatnonzero(tracks.frame == k) for k in (i, j))
    _, at_i, at_j = np.intersect1d(tracks.track[in_i], tracks.track[in_j], return_indices=True)
    a, b = observations.xy[in_i[at_i]], observations.xy[in_j[at_j]]
    limit = RANSAC_PX / observations.focal.mean()
    E, inliers = cv2.findEssentialMat(a, b, np.eye(3), cv2.RANSAC, 0.999, limit)
    if E is None or E.shape != (3, 3):
        return None
    count, R, t, _ = cv2.recoverPose(E, a, b, np.eye(3), mask=inliers)
    if count < MIN_COMMON // 2:
        return None
    T_i_j = np.eye(4)
    T_i_j[:3, :3], T_i_j[:3, 3] = R.T, -R.T @ t[:, 0]
    return T_i_j


def place_all(
    observations: Observations,
    T_submap_cam: Float[ndarray, "s 4 4"],
    placed: Bool[ndarray, " s"],
    motion: Float[ndarray, "pairs 4 4"],
) -> Float[ndarray, "s 4 4"]:
    """The other cameras by PnP, the best connected first, against points triangulated so far;
    where too few points are common, by the predicted motion from a neighbour."""
    tracks = observations.tracks
    T, placed = T_submap_cam.copy(), placed.copy()
    while not placed.all():
        anchor, has = anchors(observations, placed)
        common = np.bincount(tracks.frame, has[tracks.track], len(T))
        near = placed | np.roll(placed, 1) | np.roll(placed, -1)
        frame = int(np.argmax(np.where(placed, -1.0, common + 1e-3 * near)))
        neighbour = int(np.argmin(np.where(placed, np.abs(np.arange(len(T)) - frame), len(T))))
        rows = np.flatnonzero((tracks.frame == frame) & has[tracks.track])
        seen = np.zeros(tracks.count, bool)
        seen[tracks.track[rows]] = True
        depth = triangulate(observations, T, placed, wanted=seen)
        a = anchor[tracks.track[rows]]
        ray = np.concatenate([observations.xy[a], np.ones((len(a), 1))], 1)
        T_a = T[tracks.frame[a]]
        arm = np.einsum("nij,nj->ni", T_a[:, :3, :3], ray * depth[tracks.track[rows], None])
        limit = RANSAC_PX / observations.focal[frame].mean()
        found = _place(arm + T_a[:, :3, 3], observations.xy[rows], limit)
        T[frame] = _chained(T, motion, neighbour, frame) if found is None else found
        placed[frame] = True
    return T


def _place(
    xyz: Float[ndarray, "n 3"], xy: Float[ndarray, "n 2"], limit: float
) -> Float[ndarray, "4 4"] | None:
    """T_submap_cam by P3P in RANSAC; rough depths need the wider of the two limits."""
    if len(xyz) < MIN_PNP:
        return None
    for threshold in (limit, 5 * limit):
        found, turn, shift, inliers = cv2.solvePnPRansac(
            xyz,
            xy,
            np.eye(3),
            None,
            iterationsCount=100,
            reprojectionError=threshold,
            flags=cv2.SOLVEPNP_AP3P,
        )
        if found and inliers is not None and len(inliers) >= max(MIN_PNP, 0.3 * len(xyz)):
            rows = inliers[:, 0]
            turn, shift = cv2.solvePnPRefineLM(xyz[rows], xy[rows], np.eye(3), None, turn, shift)
            R = cv2.Rodrigues(turn)[0]
            T = np.eye(4)
            T[:3, :3], T[:3, 3] = R.T, -R.T @ np.asarray(shift)[:, 0]
            return T
    return None


def _chained(
    T: Float[ndarray, "s 4 4"], motion: Float[ndarray, "pairs 4 4"], start: int, end: int
) -> Float[ndarray, "4 4"]:
    """Pose of `end` by the predicted motion from `start`."""
    pose = T[start]
    for k in range(start, end):
        pose = pose @ motion[k]
    for k in range(start, end, -1):
        pose = pose @ np.linalg.inv(motion[k - 1])
    return pose
