"""Camera-rate pose: corners of the newest keyframe, lifted with its depth, followed to each image.

Keyframes arrive late, a stride behind the camera. The tracker keeps recent grey images and its own
poses, anchors a keyframe where it was itself at that stamp, and follows the keyframe's corners
through the kept images to the present: the hand-over does not jump. Its scale follows a slow
filter, so odometry stays continuous when the map's does not.
"""

from collections import OrderedDict
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray

from scal3r_ros.geometry.camera import scale_intrinsics
from scal3r_ros.geometry.keyframe import Keyframe
from scal3r_ros.geometry.sim3 import invert_pose

LK = {"winSize": (15, 15), "maxLevel": 3}
TRACKING, COASTING = "tracking", "coasting"


@dataclass(frozen=True)
class TrackerConfig:
    max_width: int = 640  # pixels at which features are followed
    features: int = 300
    min_inliers: int = 20
    pnp_px: float = 2.5
    max_backward_px: float = 1.0
    history: int = 96  # images kept for late keyframes
    catch_up: int = 24  # kept images through which a late keyframe's corners are followed
    edge_ratio: float = 0.08  # depth change around a corner that marks an edge
    scale_gain: float = 0.2  # of the log-scale filter, per keyframe
    coast_translation: float = 0.05  # standard deviation added per image, share of the depth
    coast_rotation_rad: float = 0.02


@dataclass(frozen=True, eq=False)
class TrackedPose:
    stamp_ns: int
    T_odom_cam: Float[ndarray, "4 4"]
    covariance: Float[ndarray, "6 6"]  # of (translation, rotation vector), map units and rad
    state: str  # tracking or coasting
    inliers: int


@dataclass(frozen=True, eq=False)
class _Seen:
    """What is kept of a past image."""

    pyramid: UInt8[ndarray, "h w"]
    T_odom_cam: Float[ndarray, "4 4"] | None


class Tracker:
    def __init__(self, config: TrackerConfig) -> None:
        self.config = config
        self.reset()

    def reset(self) -> None:
        self._history: OrderedDict[int, _Seen] = OrderedDict()
        self._xyz = np.zeros((0, 3))  # of the corners, in the keyframe's camera, odom units
        self._uv = np.zeros((0, 2), np.float32)  # where they are in the newest image
        self._T_odom_keyframe: Float[ndarray, "4 4"] | None = None
        self._poses: list[tuple[int, Float[ndarray, "4 4"]]] = []  # the last two, for velocity
        self._log_scale = 0.0  # odom units per map unit
        self._depth = 1.0  # median of the keyframe, odom units
        self._covariance = np.zeros((6, 6))
        self._K: Float[ndarray, "3 3"] | None = None

    def track(
        self, image: UInt8[ndarray, "h w 3"], K: Float[ndarray, "3 3"], stamp_ns: int
    ) -> TrackedPose | None:
        """Pose of one image; None before the first keyframe.

        Raises ValueError where stamps do not increase.
        """
        if self._history and stamp_ns <= next(reversed(self._history)):
            raise ValueError(f"stamps must increase, got {stamp_ns} ns again or earlier")
        grey, self._K = shrink(image, K, self.config.max_width)
        previous = self._history[next(reversed(self._history))].pyramid if self._history else None
        pose = None
        if self._T_odom_keyframe is not None and previous is not None:
            self._follow(previous, grey)
            pose = self._locate(stamp_ns)
        self._remember(stamp_ns, grey, pose)
        return pose

    def set_keyframe(self, keyframe: Keyframe) -> None:
        """Takes over a newly mapped keyframe, usually some seconds old."""
        grey, K = shrink(keyframe.image, keyframe.K, self.config.max_width)
        uv, depth = lift_corners(grey, keyframe.depth, self.config)
        if len(uv) < self.config.min_inliers:
            return  # nothing to hold on to: the old keyframe serves on
        anchor = self._anchor(keyframe)
        self._follow_scale(keyframe, uv, depth, anchor, K)
        depth = depth * np.exp(self._log_scale)
        rays = np.concatenate([(uv + 0.5 - K[:2, 2]) / K[[0, 1], [0, 1]], np.ones((len(uv), 1))], 1)
        self._xyz, self._uv = rays * depth[:, None], uv.astype(np.float32)
        self._T_odom_keyframe, self._depth = anchor, float(np.median(depth))
        self._catch_up(grey, keyframe.stamp_ns)

    def _anchor(self, keyframe: Keyframe) -> Float[ndarray, "4 4"]:
        """Where the tracker was itself at the keyframe; the map's pose at the very start."""
        if self._T_odom_keyframe is None:
            return keyframe.T_map_cam.copy()
        own = self._history.get(keyframe.stamp_ns)
        if own is not None and own.T_odom_cam is not None:
            return own.T_odom_cam
        known = [(s, h.T_odom_cam) for s, h in self._history.items() if h.T_odom_cam is not None]
        if not known:
            return self._T_odom_keyframe
        nearest = min(known, key=lambda pair: abs(pair[0] - keyframe.stamp_ns))
        assert nearest[1] is not None
        return nearest[1]

    def _follow_scale(
        self,
        keyframe: Keyframe,
        uv: Float[ndarray, "n 2"],
        depth: Float[ndarray, " n"],
        anchor: Float[ndarray, "4 4"],
        K: Float[ndarray, "3 3"],
    ) -> None:
        """Compares the new depth with that of the old corners as the keyframe sees them."""
        if self._T_odom_keyframe is None or not len(self._xyz):
            return
        T_new_old = invert_pose(anchor) @ self._T_odom_keyframe
        old = self._xyz @ T_new_old[:3, :3].T + T_new_old[:3, 3]
        old = old[old[:, 2] > 0]
        at = old[:, :2] / old[:, 2:] * K[[0, 1], [0, 1]] + K[:2, 2] - 0.5
        distance = np.linalg.norm(at[:, None] - uv[None], axis=2)
        if not distance.size:
            return
        nearest = distance.argmin(axis=1)
        close = distance[np.arange(len(at)), nearest] < 8.0
        if close.sum() < 10:
            return
        observed = float(np.median(np.log(old[close, 2] / depth[nearest[close]])))
        self._log_scale += self.config.scale_gain * np.clip(observed - self._log_scale, -0.5, 0.5)

    def _catch_up(self, grey: UInt8[ndarray, "h w"], stamp_ns: int) -> None:
        """Follows the new corners from the keyframe to the newest image."""
        later = [h.pyramid for s, h in self._history.items() if s > stamp_ns]
        if not later:
            return
        step = max(1, -(-len(later) // self.config.catch_up))
        chosen = [*later[step - 1 : -1 : step], later[-1]]
        for after in chosen:
            self._follow(grey, after)
            grey = after

    def _follow(self, before: UInt8[ndarray, "h w"], after: UInt8[ndarray, "h w"]) -> None:
        if not len(self._uv):
            return
        ends, good = follow(before, after, self._uv, self.config.max_backward_px)
        self._uv, self._xyz = ends[good], self._xyz[good]

    def _locate(self, stamp_ns: int) -> TrackedPose:
        """PnP on what is still followed, else constant velocity with growing covariance."""
        guess = self._predict(stamp_ns)
        found = self._solve(guess)
        if found is None:
            growth = [self.config.coast_translation * self._depth] * 3
            growth += [self.config.coast_rotation_rad] * 3
            self._covariance = self._covariance + np.diag(np.square(growth))
            pose = TrackedPose(stamp_ns, guess, self._covariance, COASTING, 0)
        else:
            T_odom_cam, covariance, inliers = found
            self._covariance = covariance
            pose = TrackedPose(stamp_ns, T_odom_cam, covariance, TRACKING, int(inliers.sum()))
        self._poses = [*self._poses[-1:], (stamp_ns, pose.T_odom_cam)]
        return pose

    def _predict(self, stamp_ns: int) -> Float[ndarray, "4 4"]:
        """Constant velocity from the last two poses."""
        if not self._poses:
            assert self._T_odom_keyframe is not None
            return self._T_odom_keyframe
        if len(self._poses) < 2:
            return self._poses[-1][1]
        (t0, A), (t1, B) = self._poses
        share = min((stamp_ns - t1) / max(t1 - t0, 1), 3.0)
        step = invert_pose(A) @ B
        T = np.eye(4)
        T[:3, :3] = cv2.Rodrigues(share * cv2.Rodrigues(step[:3, :3])[0])[0]
        T[:3, 3] = share * step[:3, 3]
        return B @ T

    def _solve(
        self, guess: Float[ndarray, "4 4"]
    ) -> tuple[Float[ndarray, "4 4"], Float[ndarray, "6 6"], Bool[ndarray, " n"]] | None:
        assert self._K is not None
        assert self._T_odom_keyframe is not None
        if len(self._uv) < self.config.min_inliers:
            return None
        T_cam_keyframe = invert_pose(guess) @ self._T_odom_keyframe
        rotation, translation = cv2.Rodrigues(T_cam_keyframe[:3, :3])[0], T_cam_keyframe[:3, 3:]
        uv = self._uv.astype(np.float64) + 0.5
        found, rotation, translation, rows = cv2.solvePnPRansac(
            self._xyz,
            uv,
            self._K,
            None,
            rotation,
            translation.copy(),
            True,
            100,
            self.config.pnp_px,
            0.99,
        )
        if not found or rows is None or len(rows) < self.config.min_inliers:
            return None
        rows = rows[:, 0]
        rotation, translation = cv2.solvePnPRefineLM(
            self._xyz[rows], uv[rows], self._K, None, rotation, translation
        )
        inliers = np.zeros(len(uv), dtype=bool)
        inliers[rows] = True
        T = np.eye(4)
        T[:3, :3], T[:3, 3] = cv2.Rodrigues(rotation)[0], np.asarray(translation)[:, 0]
        covariance = self._uncertainty(rotation, translation, rows, T)
        return self._T_odom_keyframe @ invert_pose(T), covariance, inliers

    def _uncertainty(
        self,
        rotation: Float[ndarray, "3 1"],
        translation: Float[ndarray, "3 1"],
        rows: ndarray,
        T_cam_keyframe: Float[ndarray, "4 4"],
    ) -> Float[ndarray, "6 6"]:
        """From the reprojection's Jacobian and residuals, turned into odom axes, with a floor."""
        assert self._T_odom_keyframe is not None
        projected, jacobian = cv2.projectPoints(
            self._xyz[rows], rotation, translation, self._K, None
        )
        residual = projected[:, 0] - (self._uv[rows] + 0.5)
        variance = max(float((residual**2).sum()) / max(2 * len(rows) - 6, 1), 0.05)
        J = jacobian[:, [3, 4, 5, 0, 1, 2]]  # translation, rotation
        normal = J.T @ J + 1e-9 * np.eye(6)
        covariance = variance * np.linalg.inv(normal)
        R_odom_cam = self._T_odom_keyframe[:3, :3] @ T_cam_keyframe[:3, :3].T
        turn = np.kron(np.eye(2), R_odom_cam)
        floor = np.diag(np.square([0.002 * self._depth] * 3 + [0.001] * 3))
        return turn @ covariance @ turn.T + floor

    def _remember(
        self, stamp_ns: int, grey: UInt8[ndarray, "h w"], pose: TrackedPose | None
    ) -> None:
        self._history[stamp_ns] = _Seen(grey, None if pose is None else pose.T_odom_cam)
        while len(self._history) > self.config.history:
            self._history.popitem(last=False)


def shrink(
    image: UInt8[ndarray, "h w 3"], K: Float[ndarray, "3 3"], width: int
) -> tuple[UInt8[ndarray, "h2 w2"], Float[ndarray, "3 3"]]:
    """Grey, no wider than `width`, with its K."""
    grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
    if grey.shape[1] <= width:
        return grey, K
    size = (round(grey.shape[0] * width / grey.shape[1]), width)
    small = np.asarray(cv2.resize(grey, size[::-1], interpolation=cv2.INTER_AREA))
    return small, scale_intrinsics(K, grey.shape, size)


def lift_corners(
    grey: UInt8[ndarray, "h w"], depth: Float[ndarray, "hd wd"], config: TrackerConfig
) -> tuple[Float[ndarray, "n 2"], Float[ndarray, " n"]]:
    """Corners with a depth that is no edge; pixels of `grey`, integer centres."""
    apart = max(4, round(0.7 * np.sqrt(grey.size / config.features) / 2))
    corners = cv2.goodFeaturesToTrack(grey, config.features, 0.005, apart)
    if corners is None:
        return np.zeros((0, 2)), np.zeros(0)
    uv = np.asarray(corners)[:, 0].astype(np.float64)
    scale = np.array(depth.shape[::-1]) / np.array(grey.shape[::-1])
    column, row = np.clip(
        np.floor((uv + 0.5) * scale).astype(int), 1, np.array(depth.shape[::-1]) - 2
    ).T
    around = np.stack([depth[row + dy, column + dx] for dy in (-1, 0, 1) for dx in (-1, 0, 1)])
    low, high = around.min(axis=0), around.max(axis=0)
    good = (low > 0) & (high - low < config.edge_ratio * high * 2)
    return uv[good], depth[row, column][good].astype(np.float64)


def follow(
    before: UInt8[ndarray, "h w"],
    after: UInt8[ndarray, "h w"],
    uv: Float[ndarray, "n 2"],
    max_backward_px: float,
) -> tuple[Float[ndarray, "n 2"], Bool[ndarray, " n"]]:
    """Ends of the points, and which come back to where they started."""
    start = np.ascontiguousarray(uv[:, None], np.float32)
    ends, found, _ = cv2.calcOpticalFlowPyrLK(before, after, start, None, **LK)
    back, returned, _ = cv2.calcOpticalFlowPyrLK(after, before, ends, None, **LK)
    good = (found[:, 0] > 0) & (returned[:, 0] > 0)
    good &= np.linalg.norm(back - start, axis=2)[:, 0] < max_backward_px
    return ends[:, 0], good
