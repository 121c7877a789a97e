"""First poses of a chunk from its feature tracks, in the scale of the predicted depth."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from scal3r_ros.geometry.camera import rays, scale_intrinsics
from scal3r_ros.mapping.bundle_problem import huber
from scal3r_ros.mapping.feature_tracks import FeatureTracks
from scal3r_ros.mapping.measured_depth import SIGMA as MEASURED_SIGMA
from scal3r_ros.mapping.measured_depth import MeasuredDepth
from scal3r_ros.mapping.two_view import pose_between
from scal3r_ros.mapping.types import Chunk, Prediction

MIN_PNP = 12
SURE_SIGMA, MIN_SURE = 0.05, 24  # of log depths: with so many sure points PnP takes no others
WELL_PLACED = 0.6  # share of the points within RANSAC_PX: nothing beyond PnP is needed
RANSAC_PX = 2.0
FALSE_PX = 5.0  # from here on a match is false, however far off
DEPTH_SIGMA = 0.3  # of the predicted log depth
BENT_SIGMA = 1.0  # where the focal length is unknown: what bends it bends the depth too
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
    wanted: Bool[ndarray, " m"] | None = None,
) -> tuple[Float[ndarray, " m"], Float[ndarray, " m"]]:
    """Depth of every track along the ray of its anchor, and the deviation of its logarithm: linear
    least squares in inverse depth, with the known depth as prior. Tracks without anchor get the
    median, tracks that are not wanted their prior."""
    tracks, xy = observations.tracks, observations.xy
    anchor, _ = anchors(observations, allowed)
    used = allowed[tracks.frame] & (anchor[tracks.track] != np.arange(len(xy)))
    rows = np.flatnonzero(used if wanted is None else used & wanted[tracks.track])
    a_row = anchor[tracks.track[rows]]
    T_a, T_j = T_submap_cam[tracks.frame[a_row]], T_submap_cam[tracks.frame[rows]]
    R_j_submap = T_j[:, :3, :3].transpose(0, 2, 1)
    turned = np.einsum("nij,njk,nk->ni", R_j_submap, T_a[:, :3, :3], rays(xy[a_row]))
    moved = np.einsum("nij,nj->ni", R_j_submap, T_a[:, :3, 3] - T_j[:, :3, 3])
    # x = (turned + moved / depth) projected: linear in the inverse depth
    A = moved[:, :2] - xy[rows] * moved[:, 2:]
    B = xy[rows] * turned[:, 2:] - turned[:, :2]
    scale = 1 / np.maximum(turned[:, 2], 0.1)  # rows in units of the image plane
    weight = (observations.focal[tracks.frame[rows]].mean(1) * scale / PIXEL_SIGMA) ** 2
    median = observations.median_depth
    predicted = observations.depth[anchor]
    inverse = 1 / np.where(predicted > 0, predicted, median)
    prior = (1 / (inverse * observations.depth_sigma[anchor])) ** 2
    normal = np.bincount(tracks.track[rows], weight * (A * A).sum(1), tracks.count) + prior
    right = np.bincount(tracks.track[rows], weight * (A * B).sum(1), tracks.count)
    found = (right + prior * inverse) / normal
    found = np.clip(found, 1 / (median * DEPTH_RANGE), DEPTH_RANGE / median)
    return 1 / found, 1 / (np.sqrt(normal) * found)


def place_all(
    observations: Observations,
    T_submap_cam: Float[ndarray, "s 4 4"],
    placed: Bool[ndarray, " s"],
    motion: Float[ndarray, "pairs 4 4"],
) -> Float[ndarray, "s 4 4"]:
    """The other cameras by PnP, the best connected first, against points triangulated so far; by
    the essential matrix to the camera that saw most of them, where their depth is too rough and
    that fits better; by the predicted motion from a neighbour where too few points are common."""
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
        depth, sigma = triangulate(observations, T, placed, seen)
        xyz = _points(observations, T, anchor, depth)[tracks.track[rows]]
        limit = RANSAC_PX / observations.focal[frame].mean()
        sure = sigma[tracks.track[rows]] < SURE_SIGMA
        use = sure if sure.sum() >= MIN_SURE else np.ones(len(rows), bool)
        found, fits = _place(xyz[use], observations.xy[rows[use]], limit)
        choices = [] if found is None else [found]
        if fits < WELL_PLACED:
            linked = _linked(observations, T, placed, rows, xyz)
            choices += [] if linked is None else [linked]
        choices = choices or [_chained(T, motion, neighbour, frame)]
        placed[frame] = True
        if len(choices) > 1:
            choices.sort(key=lambda pose: _misfit(observations, T, placed, frame, pose, seen))
        T[frame] = choices[0]
    return T


def _misfit(
    observations: Observations,
    T: Float[ndarray, "s 4 4"],
    placed: Bool[ndarray, " s"],
    frame: int,
    pose: Float[ndarray, "4 4"],
    wanted: Bool[ndarray, " m"],
) -> float:
    """Of the points of a frame, with it at this pose and them triangulated anew."""
    tracks = observations.tracks
    T = T.copy()
    T[frame] = pose
    depth, _ = triangulate(observations, T, placed, wanted)
    xyz = _points(observations, T, anchors(observations, placed)[0], depth)
    rows = np.flatnonzero(placed[tracks.frame] & wanted[tracks.track])
    T_j = T[tracks.frame[rows]]
    y = np.einsum("nji,nj->ni", T_j[:, :3, :3], xyz[tracks.track[rows]] - T_j[:, :3, 3])
    z = np.maximum(y[:, 2:], 1e-6 * observations.median_depth)
    error = (y[:, :2] / z - observations.xy[rows]) * observations.focal[tracks.frame[rows]]
    return float(robust_misfit(np.linalg.norm(error, axis=1)).mean())


def robust_misfit(error_px: Float[ndarray, " n"]) -> Float[ndarray, " n"]:
    """Huber costs where a false match costs the same however false: else what suits false matches
    best is chosen."""
    return huber(np.minimum(error_px, FALSE_PX), 1.0)


def _points(
    observations: Observations,
    T: Float[ndarray, "s 4 4"],
    anchor: Int[ndarray, " m"],
    depth: Float[ndarray, " m"],
) -> Float[ndarray, "m 3"]:
    """In the submap frame, of every track."""
    ray = rays(observations.xy[anchor])
    T_a = T[observations.tracks.frame[anchor]]
    return np.einsum("nij,nj->ni", T_a[:, :3, :3], ray * depth[:, None]) + T_a[:, :3, 3]


def _linked(
    observations: Observations,
    T: Float[ndarray, "s 4 4"],
    placed: Bool[ndarray, " s"],
    rows: Int[ndarray, " n"],
    xyz: Float[ndarray, "n 3"],
) -> Float[ndarray, "4 4"] | None:
    """T_submap_cam of the frame of these observations, from the placed camera that saw most of the
    points."""
    tracks = observations.tracks
    at = np.full(tracks.count, -1)
    at[tracks.track[rows]] = np.arange(len(rows))
    others = np.flatnonzero(placed[tracks.frame] & (at[tracks.track] >= 0))
    i = int(np.argmax(np.bincount(tracks.frame[others], minlength=len(T))))
    rows_i = others[tracks.frame[others] == i]
    common = at[tracks.track[rows_i]]
    z = (xyz[common] - T[i, :3, 3]) @ T[i, :3, 2]
    matches = observations.xy[rows_i], observations.xy[rows[common]]
    T_i_j = pose_between(*matches, z, float(observations.focal[i].mean()))
    return None if T_i_j is None else T[i] @ T_i_j


def _place(
    xyz: Float[ndarray, "n 3"], xy: Float[ndarray, "n 2"], limit: float
) -> tuple[Float[ndarray, "4 4"] | None, float]:
    """T_submap_cam by P3P in RANSAC, and the share of the points that fit it within the limit;
    rough depths need a wider one."""
    if len(xyz) < MIN_PNP:
        return None, 0.0
    fits = 0.0
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
        if found and inliers is not None and threshold == limit:
            fits = len(inliers) / len(xyz)
        if found and inliers is not None and len(inliers) >= max(MIN_PNP, 0.3 * len(xyz)):
            rows = inliers[:, 0]
            turn, shift = cv2.solvePnPRefineLM(xyz[rows], xy[rows], np.eye(3), None, turn, shift)
            R = cv2.Rodrigues(turn)[0]
            T = np.eye(4)
            T[:3, :3], T[:3, 3] = R.T, -R.T @ np.asarray(shift)[:, 0]
            return T, fits
    return None, fits


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
