"""The tracker on a sequence with sensor depth, beside OpenCV's RGB-D odometry.

OpenCV gets the depth of every image that has any. The tracker gets the same, or, as on a robot, one
keyframe a second and that late: by each of a few delays, for a single run is chance. Truth judges
the drift over a second, and the covariance.
"""

import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, Float32
from numpy import ndarray

from scal3r_ros.data.sequence import SequenceError, open_sequence
from scal3r_ros.data.sequence_folder import files_beside, read_depth
from scal3r_ros.data.tum import Trajectory, read_trajectory
from scal3r_ros.evaluation.plots import TRUTH
from scal3r_ros.evaluation.trajectory import aligned_places, associate, evaluate, motion_errors
from scal3r_ros.geometry.camera import scale_intrinsics
from scal3r_ros.geometry.keyframe import Keyframe
from scal3r_ros.geometry.sim3 import invert_pose
from scal3r_ros.mapping.types import Frame
from scal3r_ros.tracking.tracker import Tracker
from scal3r_ros.tracking.types import TrackedPose, TrackerConfig

# seconds between keyframes; images until they come, a run each
DELIVERIES = {"at once": (0.0, (0,)), "late": (1.0, (2, 3, 4, 5))}
MAX_STEP, MAX_TURN_DEG, MAX_DEPTH_DIFF = 0.5, 30.0, 0.3  # that OpenCV is to expect, m


def track_with_depth(
    folder: Path,
    config: TrackerConfig,
    size: tuple[int, int] | None = None,
    places: dict[str, Float[ndarray, "n 3"]] | None = None,
) -> dict[str, Any]:
    """Images of another size (height, width) where one is given. Where the camera was by each, and
    in truth, goes into `places`. Raises SequenceError where images, truth or depth are missing."""
    places = {} if places is None else places
    frames = [_resized(frame, size) if size else frame for frame in open_sequence(folder)]
    truth = read_trajectory(folder / "groundtruth.txt")
    depths = {i: read_depth(path) for i, path in files_beside(folder, "depth").items()}
    if size:
        depths = {i: _stretched(d, size, cv2.INTER_NEAREST_EXACT) for i, d in depths.items()}
    if not depths:
        raise SequenceError(f"{folder / 'depth'} holds no depth of the images")
    results: dict[str, Any] = {"images": len(frames), "images with depth": len(depths)}
    for name, (every_s, delays) in DELIVERIES.items():
        keyframes = _with_sensor_depth(frames, depths, every_s)
        runs, seconds = [], []
        for delay in delays:
            poses, took = tracked(frames, keyframes, config, delay)
            runs.append(poses)
            seconds += took
        ways = [{stamp: p.T_odom_cam for stamp, p in poses.items()} for poses in runs]
        drifts = [_drift(truth, way) for way in ways]
        middle = sorted(range(len(runs)), key=lambda k: drifts[k]["ATE m"])[len(runs) // 2]
        places[TRUTH], places[f"keyframes {name}"] = aligned_places(truth, ways[middle], "se3")
        results[f"tracker, keyframes {name}"] = {
            **{of: round(float(np.mean([d[of] for d in drifts])), 4) for of in drifts[0]},
            **told(runs, seconds),
            "normalised error": normalised_error(truth, runs),
        }
    others = _opencv_odometry(frames, depths)
    places["OpenCV RGB-D"] = aligned_places(truth, others, "se3")[1]
    results["OpenCV RGB-D odometry"] = _drift(truth, others)
    return results


def _resized(frame: Frame, size: tuple[int, int]) -> Frame:
    K = None if frame.K is None else scale_intrinsics(frame.K, frame.image.shape[:2], size)
    return replace(frame, image=_stretched(frame.image, size, cv2.INTER_LINEAR), K=K)


def _stretched(image: ndarray, size: tuple[int, int], interpolation: int) -> ndarray:
    return np.asarray(cv2.resize(image, size[::-1], interpolation=interpolation))


def told(runs: Sequence[dict[int, TrackedPose]], seconds: list[float]) -> dict[str, float | int]:
    """How many images were tracked, how many of them blind, and milliseconds of each."""
    return {
        "tracked": sum(map(len, runs)),
        "coasted": sum(p.state != "tracking" for poses in runs for p in poses.values()),
        **{f"ms p{q}": round(1e3 * float(np.percentile(seconds, q)), 1) for q in (50, 95, 99)},
    }


def normalised_error(
    truth: Trajectory, runs: Sequence[dict[int, TrackedPose]], window_s: float = 0.0
) -> dict[str, float]:
    """Root mean square of error over deviation; 1 is honest.

    Of tracked poses from image to image, of coasting ones since the last that was tracked, for
    since then their deviation grows. Both poses have errors: variances add. Where the unit of
    length is that of a map which changes it, a window tells how large it is there: the truth is
    scaled to the way of the poses so many seconds before and after.
    """
    found: dict[str, list[Float[ndarray, " 6"]]] = {"tracking": [], "coasting": []}
    for poses in runs:
        stamps = [stamp for stamp in sorted(poses) if stamp in truth]
        units = _units(truth, poses, stamps, window_s)
        since = stamps[0] if stamps else 0  # the last stamp from which the camera's way is known
        for (a, b), unit in zip(pairwise(stamps), units, strict=True):
            since = a if poses[a].state == "tracking" else since
            now, begin = poses[b], a if poses[b].state == "tracking" else since
            true = invert_pose(truth[begin]) @ truth[b]
            true[:3, 3] *= unit
            way = invert_pose(poses[begin].T_odom_cam) @ now.T_odom_cam
            wrong = invert_pose(true) @ way
            R = now.T_odom_cam[:3, :3]
            error = np.concatenate([R @ wrong[:3, 3], R @ cv2.Rodrigues(wrong[:3, :3])[0][:, 0]])
            variance = np.diag(now.covariance) + np.diag(poses[begin].covariance)
            found[now.state].append(error**2 / variance)
    return {
        f"{state}, {name}": round(float(np.sqrt(np.mean(np.stack(rows)[:, part]))), 3)
        for state, rows in found.items()
        if rows
        for name, part in (("translation", slice(0, 3)), ("rotation", slice(3, 6)))
    }


def _units(
    truth: Trajectory, poses: dict[int, TrackedPose], stamps: list[int], window_s: float
) -> Float[ndarray, " steps"]:
    """Way of the poses over the true way around each step, 1 without a window."""
    if window_s == 0 or len(stamps) < 2:
        return np.ones(max(len(stamps) - 1, 0))
    ours, true = (
        np.cumsum([0.0, *np.linalg.norm(np.diff(places, axis=0), axis=1)])
        for places in (
            [poses[stamp].T_odom_cam[:3, 3] for stamp in stamps],
            [truth[stamp][:3, 3] for stamp in stamps],
        )
    )
    seconds = (np.array(stamps) - stamps[0]) * 1e-9
    begin = np.searchsorted(seconds, seconds[:-1] - window_s)
    end = np.searchsorted(seconds, seconds[1:] + window_s, side="right") - 1
    return (ours[end] - ours[begin]) / np.maximum(true[end] - true[begin], 1e-9)


def _drift(truth: Trajectory, estimate: Trajectory) -> dict[str, float]:
    errors = motion_errors(*associate(truth, estimate))
    (m_50, deg_50), (m_90, deg_90) = np.quantile(errors, [0.5, 0.9], axis=0)
    return {
        "median m/s": round(float(m_50), 4),
        "median deg/s": round(float(deg_50), 3),
        "90 % m/s": round(float(m_90), 4),
        "90 % deg/s": round(float(deg_90), 3),
        "ATE m": round(evaluate(truth, estimate, "se3").ate_rmse, 3),
    }


def _with_sensor_depth(
    frames: list[Frame], depths: dict[int, Float32[ndarray, "h w"]], every_s: float
) -> list[tuple[int, Keyframe]]:
    """Images of which there is depth, no more than one in so many seconds, each with its index."""
    keyframes: list[tuple[int, Keyframe]] = []
    for frame in frames:
        fresh = not keyframes or frame.stamp_ns - keyframes[-1][1].stamp_ns >= every_s * 1e9
        if frame.index in depths and fresh and frame.K is not None:
            keyframe = Keyframe(
                index=frame.index,
                stamp_ns=frame.stamp_ns,
                image=frame.image,
                depth=depths[frame.index],
                K=frame.K,
                T_map_cam=np.eye(4),
            )
            keyframes.append((frame.index, keyframe))
    return keyframes


def tracked(
    frames: Iterable[Frame],
    keyframes: Iterable[tuple[int, Keyframe]],
    config: TrackerConfig,
    late: int = 0,
) -> tuple[dict[int, TrackedPose], list[float]]:
    """Poses by stamp, and seconds of each image; every keyframe comes so many images after that of
    the index which stands before it."""
    tracker = Tracker(config)
    poses: dict[int, TrackedPose] = {}
    seconds: list[float] = []
    due = deque(keyframes)
    for frame in frames:
        if frame.K is None:
            raise SequenceError("tracking needs the camera's calibration")
        began = time.perf_counter()
        pose = tracker.track(frame.image, frame.K, frame.stamp_ns)
        if pose is not None:
            seconds.append(time.perf_counter() - began)
            poses[frame.stamp_ns] = pose
        while due and due[0][0] + late <= frame.index:
            tracker.set_keyframe(due.popleft()[1])
    return poses, seconds


def _opencv_odometry(frames: list[Frame], depths: dict[int, Float32[ndarray, "h w"]]) -> Trajectory:
    """Steps that it gives up are taken for rest."""
    if not hasattr(cv2, "OdometrySettings"):
        raise ImportError(f"RGB-D odometry needs OpenCV 5, this is {cv2.__version__}")
    trajectory: Trajectory = {}
    T, before, odometry = np.eye(4), None, None
    for frame in frames:
        if frame.index not in depths or frame.K is None:
            continue
        depth = np.where(depths[frame.index] > 0, depths[frame.index], np.float32(np.nan))
        now = depth, np.ascontiguousarray(frame.image[..., ::-1])
        if odometry is None:
            K = frame.K.astype(np.float32)
            K[:2, 2] -= 0.5
            settings = cv2.OdometrySettings()
            settings.setCameraMatrix(K)
            settings.setMaxTranslation(MAX_STEP)
            settings.setMaxRotation(MAX_TURN_DEG)
            settings.setMaxDepthDiff(MAX_DEPTH_DIFF)
            kind, way = cv2.OdometryType_RGB_DEPTH, cv2.OdometryAlgoType_COMMON
            odometry = cv2.Odometry(kind, settings, way)
        if before is not None:
            found, step = odometry.compute(*now, *before)
            T = T @ np.asarray(step) if found else T
        trajectory[frame.stamp_ns] = T
        before = now
    return trajectory
