"""Corners that are being followed, and where they are in the odom frame."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from numpy import ndarray

from scal3r_ros.geometry.camera import project, rays, transform_points, unproject_pixels
from scal3r_ros.geometry.sim3 import invert_pose
from scal3r_ros.tracking.features import follow, sample_depth
from scal3r_ros.tracking.motion import stretched

MIN_SHARED = 15  # points that two depths must have in common to compare their scale
MAX_ERROR_PX = 1.5  # of a triangulated point in the image that completes it
TRIANGULATED_PX = 1.0  # deviation of the pixels that a point is triangulated from
SEEN_PX = 1.5  # of those by which one more image corrects its depth: it is one of many alike
MIN_SIGMA = 0.02  # of a log depth: no better by many images
MAX_CORRECTION = 0.5  # of a log depth by one image
ASSUMED_SIGMA, ASSUMED_DOUBT = 1.0, 0.5  # where nothing has told a depth
FAR = 10.0  # times the way since birth: what is nearer would have shown parallax


@dataclass(frozen=True, eq=False)
class Points:
    """`uv` are the pixels in the image seen last; xyz is NaN until known."""

    uv: Float[ndarray, "n 2"]
    from_uv: Float[ndarray, "n 2"]  # in the image before that
    xyz_odom: Float[ndarray, "n 3"]
    birth_uv: Float[ndarray, "n 2"]
    T_odom_birth: Float[ndarray, "n 4 4"]
    doubt: Float[ndarray, " n"]  # relative deviation of the scale by which it became known
    sigma: Float[ndarray, " n"]  # deviation of the log of its distance from where it was born

    @classmethod
    def none(cls) -> "Points":
        return cls.born(np.zeros((0, 2)), np.eye(4))

    @classmethod
    def born(cls, uv: Float[ndarray, "n 2"], T_odom_cam: Float[ndarray, "4 4"]) -> "Points":
        """New corners of unknown depth."""
        poses = np.broadcast_to(T_odom_cam, (len(uv), 4, 4))
        return cls(
            uv, uv, np.full((len(uv), 3), np.nan), uv, poses, np.zeros(len(uv)), np.zeros(len(uv))
        )

    def __len__(self) -> int:
        return len(self.uv)

    @property
    def known(self) -> Bool[ndarray, " n"]:
        return np.isfinite(self.xyz_odom[:, 0])

    def select(self, rows: Bool[ndarray, " n"]) -> "Points":
        return Points(**{name: values[rows] for name, values in vars(self).items()})

    def joined(self, other: "Points") -> "Points":
        theirs = vars(other)
        return Points(**{k: np.concatenate([v, theirs[k]]) for k, v in vars(self).items()})

    def shifted(self, T_new_odom: Float[ndarray, "4 4"]) -> "Points":
        """The same corners in a moved odom frame."""
        xyz = transform_points(T_new_odom, self.xyz_odom)
        return replace(self, xyz_odom=xyz, T_odom_birth=T_new_odom @ self.T_odom_birth)

    def stretched(self, centre: Float[ndarray, " 3"], factor: float) -> "Points":
        """The same corners where the unit of length changes about a place."""
        birth = stretched(self.T_odom_birth, centre, factor)
        xyz = centre + factor * (self.xyz_odom - centre)
        return replace(self, xyz_odom=xyz, T_odom_birth=birth)

    def apart_from(self, other: "Points", distance: float) -> "Points":
        """Those with no point of another set within `distance` pixels."""
        if not len(other) or not len(self):
            return self
        gaps = np.linalg.norm(self.uv[:, None] - other.uv[None], axis=2).min(axis=1)
        return self.select(gaps >= distance)

    def projected(
        self, T_odom_cam: Float[ndarray, "4 4"], K: Float[ndarray, "3 3"]
    ) -> Float[ndarray, "n 2"]:
        """Expected pixels in a camera; unknown points, and those behind it, where they are."""
        uv = project(transform_points(invert_pose(T_odom_cam), self.xyz_odom), K)
        return np.where(np.isfinite(uv), uv, self.uv)

    def log_depth_ratio(
        self,
        depth: Float32[ndarray, "hd wd"],
        T_odom_cam: Float[ndarray, "4 4"],
        K: Float[ndarray, "3 3"],
        size: tuple[int, ...],
    ) -> float | None:
        """Own depth over that of a camera's depth image, median; None where they share little."""
        known = self.select(self.known)
        z = transform_points(invert_pose(T_odom_cam), known.xyz_odom)[:, 2]
        there = sample_depth(depth, known.projected(T_odom_cam, K), size)
        shared = (z > 0) & (there > 0)
        if shared.sum() < MIN_SHARED:
            return None
        return float(np.median(np.log(z[shared] / there[shared])))

    def triangulated(
        self,
        T_odom_cam: Float[ndarray, "4 4"],
        covariance: Float[ndarray, "6 6"],
        K: Float[ndarray, "3 3"],
        min_parallax_rad: float,
        doubt: float,
    ) -> "Points":
        """Unknown points that now have parallax become known; those that do not fit go. Their scale
        is doubted like that of the points that told the camera's way, and by how sure its position
        is against the baseline."""
        rows = np.flatnonzero(~self.known)
        if not len(rows):
            return self
        T_now_birth = invert_pose(T_odom_cam) @ self.T_odom_birth[rows]
        ray = unproject_pixels(self.birth_uv[rows], np.ones(len(rows)), K)
        xy = unproject_pixels(self.uv[rows], np.ones(len(rows)), K)[:, :2]
        turned = np.einsum("nij,nj->ni", T_now_birth[:, :3, :3], ray)
        moved = T_now_birth[:, :3, 3]
        # xy = (turned + moved / depth) projected: linear in the inverse depth
        A, B = moved[:, :2] - xy * moved[:, 2:], xy * turned[:, 2:] - turned[:, :2]
        inverse = (A * B).sum(1) / np.maximum((A * A).sum(1), 1e-18)
        now = rays(xy)
        angle = np.arctan2(np.linalg.norm(np.cross(turned, now), axis=1), (turned * now).sum(1))
        ready = angle > min_parallax_rad
        error = np.linalg.norm(B - inverse[:, None] * A, axis=1) * K[0, 0]
        good = ready & (inverse > 0) & (error < MAX_ERROR_PX)
        birth = self.T_odom_birth[rows[good]]
        cam = ray[good] / inverse[good, None]
        xyz = self.xyz_odom.copy()
        xyz[rows[good]] = np.einsum("nij,nj->ni", birth[:, :3, :3], cam) + birth[:, :3, 3]
        doubts = self.doubt.copy()
        deviation = np.sqrt(np.trace(covariance[:3, :3]) / 3)
        doubts[rows[good]] = np.hypot(doubt, deviation / np.linalg.norm(moved[good], axis=1))
        sigma = self.sigma.copy()
        pixels = TRIANGULATED_PX / (K[0, 0] * np.sin(angle[good]))
        sigma[rows[good]] = np.hypot(pixels, deviation / np.linalg.norm(moved[good], axis=1))
        stay = np.ones(len(self), bool)
        stay[rows[ready & ~good]] = False
        return replace(self, xyz_odom=xyz, doubt=doubts, sigma=sigma).select(stay)

    def assumed(
        self, T_odom_cam: Float[ndarray, "4 4"], depth: float, K: Float[ndarray, "3 3"]
    ) -> "Points":
        """Unknown points are taken to lie about so far away, farther where the camera has moved
        much and still not seen their parallax."""
        way = np.linalg.norm(self.T_odom_birth[:, :3, 3] - T_odom_cam[:3, 3], axis=1)
        cam = unproject_pixels(self.birth_uv, np.maximum(depth, FAR * way), K)
        there = np.einsum("nij,nj->ni", self.T_odom_birth[:, :3, :3], cam)
        known = self.known
        return replace(
            self,
            xyz_odom=np.where(known[:, None], self.xyz_odom, there + self.T_odom_birth[:, :3, 3]),
            sigma=np.where(known, self.sigma, ASSUMED_SIGMA),
            doubt=np.where(known, self.doubt, ASSUMED_DOUBT),
        )

    @property
    def spread(self) -> Float[ndarray, "n 3"]:
        """What one deviation of its depth moves each by, in odom."""
        return self.sigma[:, None] * (self.xyz_odom - self.T_odom_birth[:, :3, 3])

    @property
    def scale_doubt(self) -> float:
        """Relative deviation of a step's length, told by these: the surer tell more of it."""
        trust = 1 / np.maximum(self.sigma, MIN_SIGMA) ** 2
        return float((trust * self.doubt).sum() / trust.sum())

    def corrected(self, T_odom_cam: Float[ndarray, "4 4"], K: Float[ndarray, "3 3"]) -> "Points":
        """Known depths by one more image, of known pose: a Kalman filter of each log distance."""
        arm = self.xyz_odom - self.T_odom_birth[:, :3, 3]
        y = (self.xyz_odom - T_odom_cam[:3, 3]) @ T_odom_cam[:3, :3]
        a, z, focal = arm @ T_odom_cam[:3, :3], y[:, 2:], K[[0, 1], [0, 1]]
        seen = self.known & (z[:, 0] > 0)
        z = np.where(seen[:, None], z, 1.0)
        along = (a[:, :2] - a[:, 2:] * y[:, :2] / z) / z * focal  # pixels for a log distance
        error = y[:, :2] / z * focal + K[:2, 2] - self.uv
        square, variance = (along * along).sum(1), self.sigma**2
        gain = variance / (variance * square + SEEN_PX**2)
        step = np.where(seen, -gain * (along * error).sum(1), 0.0)
        step = np.clip(step, -MAX_CORRECTION, MAX_CORRECTION)
        sure = np.sqrt(variance * (1 - gain * square))
        sigma = np.where(seen, np.maximum(sure, np.minimum(self.sigma, MIN_SIGMA)), self.sigma)
        xyz = self.T_odom_birth[:, :3, 3] + arm * np.exp(step)[:, None]
        return replace(self, xyz_odom=xyz, sigma=sigma)

    def followed(
        self,
        before: UInt8[ndarray, "h w"],
        now: UInt8[ndarray, "h w"],
        guess: Float[ndarray, "n 2"] | None = None,
    ) -> "Points":
        """Those found again in another image, from where they are or from a guess."""
        uv, kept = follow(before, now, self.uv, guess)
        return replace(self, uv=uv, from_uv=self.uv).select(kept)

    def sought(
        self,
        before: UInt8[ndarray, "h w"],
        now: UInt8[ndarray, "h w"],
        T_odom_cam: Float[ndarray, "4 4"],
        depth: float,
        K: Float[ndarray, "3 3"],
    ) -> "Points":
        """As `followed`; where most are lost, from where they would be in an expected camera."""
        found = self.followed(before, now)
        if len(found) < 0.5 * len(self):
            guess = self.assumed(T_odom_cam, depth, K).projected(T_odom_cam, K)
            guided = self.followed(before, now, guess)
            found = guided if len(guided) > len(found) else found
        return found
