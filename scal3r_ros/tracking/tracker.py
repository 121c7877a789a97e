"""Odometry at camera rate against the depth of keyframes that arrive late.

Corners are followed from image to image; each has a place in the odom frame, from the depth of the
keyframe that it was found in or, where the camera has moved on, triangulated by the odometry. How
sure its depth is goes into every pose, and every pose makes it surer.
"""

from collections.abc import Callable
from copy import copy
from dataclasses import replace

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from scal3r_ros.geometry.camera import transform_points, unproject_pixels
from scal3r_ros.geometry.keyframe import Keyframe
from scal3r_ros.geometry.sim3 import invert_pose
from scal3r_ros.tracking import camera_pose, two_view
from scal3r_ros.tracking.features import find_corners, sample_depth, small_grey
from scal3r_ros.tracking.history import History, TrackedImage, velocity_between
from scal3r_ros.tracking.motion import Turn, carried_on, met_halfway, rigid, stretched
from scal3r_ros.tracking.points import ASSUMED_DOUBT, Points
from scal3r_ros.tracking.types import TrackedPose, TrackerConfig

FEW_SHARE = 0.3  # of the wanted points; where there are fewer, more are sought every PAUSE images
PAUSE = 2
FEW_KNOWN = 8  # points of known depth; fewer cannot hold those that are not known
REFILL = 0.9  # share of the points found last at which more are sought


class Tracker:
    """Not thread-safe: `track` and `set_keyframe` belong to one thread."""

    def __init__(self, config: TrackerConfig, turn: Turn | None = None) -> None:
        self.config, self.turn = config, turn
        self.reset()

    def reset(self) -> None:
        self._history = History(self.config.history)
        self._points = Points.none()
        self._source: TrackedImage | None = None  # the image in which the points are at their uv
        self._K = np.eye(3)  # pixels of the tracking size
        self._last: TrackedPose | None = None
        self._solved: TrackedPose | None = None  # the last one that was measured
        self._velocity = np.zeros(6)  # translation, rotation vector in cam, a second
        self._median_depth = 1.0
        self._full = self._unsearched = 0  # points after corners were sought last, images since
        self._unit: float | None = None  # of the keyframes' map

    def track(
        self, image: UInt8[ndarray, "h w 3"], K: Float[ndarray, "3 3"], stamp_ns: int
    ) -> TrackedPose | None:
        """Pose of an image; None before the first keyframe."""
        return self.track_small(*small_grey(image, K, self.config.max_width), stamp_ns)

    def track_small(
        self, grey: UInt8[ndarray, "h w"], K: Float[ndarray, "3 3"], stamp_ns: int
    ) -> TrackedPose | None:
        newest = self._history.newest
        if newest is not None and stamp_ns <= newest.stamp_ns:
            raise ValueError(f"stamps must increase, got {stamp_ns} after {newest.stamp_ns}")
        self._K = K
        if self._last is None:
            self._history.add(TrackedImage(stamp_ns, grey, None))
            return None
        pose = self._repeated(grey, stamp_ns) or self._measured(grey, stamp_ns)
        pose = pose or self._coasted(stamp_ns)
        self._last = pose
        self._history.add(TrackedImage(stamp_ns, grey, pose.T_odom_cam))
        return pose

    def set_keyframe(self, keyframe: Keyframe) -> None:
        """Takes over a keyframe's depth. It shows the past: its corners are anchored at the odom
        pose of its own stamp and followed through the images since."""
        if self._unit is not None and self._unit != keyframe.unit:
            self._rescale(keyframe.unit / self._unit)
        self._unit = keyframe.unit
        grey, K = small_grey(keyframe.image, keyframe.K, self.config.max_width)
        first = self._last is None
        T_odom_cam = keyframe.T_map_cam if first else self._history.pose_at(keyframe.stamp_ns)
        uv = find_corners(grey, np.zeros((0, 2)), self.config.features)
        depth = sample_depth(keyframe.depth, uv, grey.shape)
        uv, depth = uv[depth > 0], depth[depth > 0]
        jump = self._points.log_depth_ratio(keyframe.depth, T_odom_cam, K, grey.shape)
        ours, theirs = met_halfway(jump, self.config.scale_bleed)
        depth = depth * theirs
        xyz = transform_points(T_odom_cam, unproject_pixels(uv, depth, K))
        sigma = np.full(len(uv), self.config.depth_sigma)
        points = replace(Points.born(uv, T_odom_cam), xyz_odom=xyz, sigma=sigma)
        source = TrackedImage(keyframe.stamp_ns, grey, T_odom_cam)
        self._K = K
        if len(depth):
            self._median_depth = float(np.median(depth))
        if first:
            self._replay(points, source)
        elif self._last.state == "coasting" or not self._hand_over(points, source, ours):
            self._replay_to_here(points, source)
        self._history.forget_before(keyframe.stamp_ns)

    def _rescale(self, factor: float) -> None:
        """The map changed its unit: from here on odometry has the new one. The present pose stays,
        all that was seen moves away from it or comes nearer."""
        if self._last is None:
            return
        centre = self._last.T_odom_cam[:3, 3]
        self._points = self._points.stretched(centre, factor)
        self._move_all(lambda T: stretched(T, centre, factor))
        unit = np.repeat([factor, 1.0], 3)
        self._last, self._solved = (
            replace(pose, covariance=unit[:, None] * pose.covariance * unit)
            for pose in (self._last, self._solved)
        )
        self._velocity = unit * self._velocity
        self._median_depth *= factor

    def _shift(self, T_new_odom: Float[ndarray, "4 4"]) -> None:
        """Everything in a moved odom frame."""
        self._points = self._points.shifted(T_new_odom)
        self._move_all(lambda T: T_new_odom @ T)

    def _move_all(self, moved: Callable[[Float[ndarray, "4 4"]], Float[ndarray, "4 4"]]) -> None:
        self._last, self._solved, self._source = (
            replace(x, T_odom_cam=moved(x.T_odom_cam))
            for x in (self._last, self._solved, self._source)
        )
        self._history.move(moved)

    def _replay(self, points: Points, source: TrackedImage) -> None:
        """Starts at the keyframe and measures the images since it, again where they were blind."""
        floors = self.config.floors(self._median_depth)
        floor = camera_pose.covariance_in_odom(None, source.T_odom_cam, floors)
        self._last = TrackedPose(source.stamp_ns, source.T_odom_cam, floor, "tracking", len(points))
        self._points, self._source, self._solved = points, source, self._last
        waiting = self._history.after(source.stamp_ns, 2 * self.config.catch_up)
        self._history.images = [source]
        for image in waiting:
            self._last = self._measured(image.grey, image.stamp_ns) or self._coasted(image.stamp_ns)
            self._history.add(replace(image, T_odom_cam=self._last.T_odom_cam))

    def _replay_to_here(self, points: Points, source: TrackedImage) -> None:
        """As `_replay`, but the present pose stays, and so does all else where only the replay is
        blind."""
        saved = self.clone()
        self._replay(points, source)
        if self._last.state == "coasting" and saved._last.state == "tracking":
            vars(self).update(vars(saved))
        else:
            self.continue_from(saved)

    def clone(self) -> "Tracker":
        """Independent from here on: values are replaced, never changed."""
        other = copy(self)
        other._history = self._history.clone()
        return other

    def continue_from(self, other: "Tracker") -> None:
        """Moves to the pose that another tracker gave the same image."""
        if self._last is not None and other._last is not None:
            T_other_self = other._last.T_odom_cam @ invert_pose(self._last.T_odom_cam)
            self._shift(rigid(T_other_self))  # else both poses' rounding comes on top of its own

    def _hand_over(self, points: Points, source: TrackedImage, factor: float) -> bool:
        """Moves the new points so that the present pose stays; the old ones come nearer to it, or
        go farther, by a factor. False: too few are still seen."""
        assert self._last is not None
        for image in self._history.after(source.stamp_ns, self.config.catch_up):
            if image.grey.shape != source.grey.shape:
                return False
            assert image.T_odom_cam is not None
            guess = points.projected(image.T_odom_cam, self._K)
            points = points.followed(source.grey, image.grey, guess)
            source = image
        solved = self._solve(points, self._last.T_odom_cam)
        if solved is None:
            return False
        T_shift = self._last.T_odom_cam @ invert_pose(solved.T_odom_cam)
        points = points.select(solved.inliers).shifted(T_shift)
        own = self._points.stretched(self._last.T_odom_cam[:3, 3], factor)
        apart = own.apart_from(points, 0.015 * source.grey.shape[1])
        self._points, self._source = points.joined(apart), source
        return True

    def _repeated(self, grey: UInt8[ndarray, "h w"], stamp_ns: int) -> TrackedPose | None:
        """The very same image has the same pose. In the dark that says nothing."""
        newest, last = self._history.newest, self._last
        same = newest is not None and np.array_equal(grey, newest.grey)
        seen = last is not None and last.state == "tracking" and same
        return replace(last, stamp_ns=stamp_ns) if seen else None

    def _measured(self, grey: UInt8[ndarray, "h w"], stamp_ns: int) -> TrackedPose | None:
        source = self._source
        assert source is not None
        if source.grey.shape != grey.shape:
            return None
        expected = self._predicted(stamp_ns)
        where = expected, self._median_depth, self._K
        points = self._points.sought(source.grey, grey, *where)
        newest = self._history.newest
        if len(points) < self.config.min_inliers and newest is not None and newest.usable(grey):
            corners = find_corners(newest.grey, np.zeros((0, 2)), self.config.features)
            source, born = newest, Points.born(corners, newest.T_odom_cam)
            points = born.sought(newest.grey, grey, *where)
        if points.known.sum() < FEW_KNOWN:
            return self._directed(points, source, TrackedImage(stamp_ns, grey, None))
        assumed = points.assumed(*where)
        blind = self._blind_sigma((stamp_ns - source.stamp_ns) * 1e-9)
        found = self._solve(assumed, expected, blind)
        if found is None:
            return None
        T, doubt = found.T_odom_cam, assumed.select(found.inliers).scale_doubt
        points = points.select(found.inliers)
        step = T[:3, :3].T @ (T[:3, 3] - self._last.T_odom_cam[:3, 3])
        off = doubt * np.linalg.norm([step, step * [1, 1, 0] / self._median_depth], axis=1)
        floors = self.config.floors(self._median_depth) + off
        covariance = camera_pose.covariance_in_odom(found, T, floors)
        if points.known.sum() >= self.config.min_inliers:
            pose = TrackedPose(stamp_ns, T, covariance, "tracking", len(points))
            self._solved = pose
        else:  # turn and direction are seen, lengths are not: image by image it is off the same way
            covariance = camera_pose.piled_up(self._last.covariance, covariance)
            pose = TrackedPose(stamp_ns, T, covariance, "coasting", len(points))
        points = points.corrected(T, self._K)
        self._arrive(source, TrackedImage(stamp_ns, grey, T), points, doubt)
        return pose

    def _arrive(
        self, source: TrackedImage, image: TrackedImage, points: Points, doubt: float
    ) -> None:
        """What is seen from here is followed on; `doubt` is that of the step's scale."""
        assert image.T_odom_cam is not None
        self._velocity = velocity_between(source, image.T_odom_cam, image.stamp_ns)
        self._source, self._points = image, self._grown(points, image, doubt)

    def _directed(
        self, points: Points, source: TrackedImage, image: TrackedImage
    ) -> TrackedPose | None:
        """Hardly anything is known: all that is followed tells turn and direction of the step,
        known points or the usual depth its length; the deviation grows as if blind."""
        assert source.T_odom_cam is not None
        if len(points) < self.config.min_inliers:
            return None
        xy = [(uv - self._K[:2, 2]) / self._K[[0, 1], [0, 1]] for uv in (points.from_uv, points.uv)]
        step = two_view.directed_step(
            source.T_odom_cam, self._median_depth, points.xyz_odom, *xy, float(self._K[0, 0])
        )
        if step is None or step[1].sum() < self.config.min_inliers:
            return None
        T, agree = step
        image = replace(image, T_odom_cam=T)
        self._arrive(source, image, points.select(agree), ASSUMED_DOUBT)
        return replace(self._coasted(image.stamp_ns), T_odom_cam=T, inliers=int(agree.sum()))

    def _solve(
        self,
        points: Points,
        guess: Float[ndarray, "4 4"],
        guess_sigma: Float[ndarray, " 6"] | None = None,
    ) -> camera_pose.CameraPose | None:
        if len(points) < self.config.min_inliers:
            return None
        focal = self._K[[0, 1], [0, 1]]
        xy = (points.uv - self._K[:2, 2]) / focal
        rows = points.xyz_odom, points.spread, xy
        found = camera_pose.solve_pose(*rows, float(focal.mean()), guess, guess_sigma)
        return found if found and found.inliers.sum() >= self.config.min_inliers else None

    def _grown(self, points: Points, image: TrackedImage, doubt: float) -> Points:
        """Triangulates what has parallax by now; fills up with new corners."""
        assert image.T_odom_cam is not None
        pose = image.T_odom_cam, self._solved.covariance, self._K
        points = points.triangulated(*pose, self.config.min_parallax_rad, doubt)
        self._unsearched += 1
        enough = len(points) > min(0.6 * self.config.features, REFILL * self._full)
        if enough and (len(points) > FEW_SHARE * self.config.features or self._unsearched < PAUSE):
            return points
        uv = find_corners(image.grey, points.uv, self.config.features - len(points))
        self._full, self._unsearched = len(points) + len(uv), 0
        return points.joined(Points.born(uv, image.T_odom_cam))

    def _predicted(self, stamp_ns: int) -> Float[ndarray, "4 4"]:
        """From the image whose corners were seen last."""
        source = self._source
        assert source is not None and source.T_odom_cam is not None
        turn = self.turn(source.stamp_ns, stamp_ns) if self.turn else None
        seconds = (stamp_ns - source.stamp_ns) * 1e-9
        decay_s = self.config.coast_decay_s
        return carried_on(source.T_odom_cam, self._velocity, seconds, decay_s, turn)

    def _coasted(self, stamp_ns: int) -> TrackedPose:
        """Velocity that fades; the deviation grows with the time since the last measured pose."""
        assert self._solved is not None
        seconds = (stamp_ns - self._solved.stamp_ns) * 1e-9
        covariance = self._solved.covariance + np.diag(self._blind_sigma(seconds)) ** 2
        return TrackedPose(stamp_ns, self._predicted(stamp_ns), covariance, "coasting", 0)

    def _blind_sigma(self, seconds: float) -> Float[ndarray, " 6"]:
        """Deviations of a pose (translation, rotation) that nothing but the velocity has told."""
        rates = [self.config.coast_translation * self._median_depth, self.config.coast_rotation_rad]
        return np.repeat(rates, 3) * seconds
