"""Poses as precise as feature tracks allow, depth corrected by what they triangulate.

The network knows the scene where nothing can be tracked; geometry knows it where something can.
A chunk's prediction goes in, a better one comes out, in the network's own scale.
"""

import time
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from scal3r_ros.mapping.bundle import adjust, points, residuals
from scal3r_ros.mapping.bundle_covariance import covariance, far_end
from scal3r_ros.mapping.bundle_problem import BundleProblem, BundleState
from scal3r_ros.mapping.bundle_starts import ROUGH_PX, best_start, chunk_problem, without_outliers
from scal3r_ros.mapping.carried import Carried, carry_over
from scal3r_ros.mapping.config import RefinementConfig
from scal3r_ros.mapping.dense_flow import DenseMatcher, matching_size
from scal3r_ros.mapping.depth_correction import correct_depth
from scal3r_ros.mapping.feature_tracks import FeatureTracker, FeatureTracks
from scal3r_ros.mapping.initial_poses import (
    Observations,
    observe,
)
from scal3r_ros.mapping.landmarks import Landmarks
from scal3r_ros.mapping.measured_depth import MeasuredDepth, measured_depth, with_measured
from scal3r_ros.mapping.self_calibration import SelfCalibration, zoomed
from scal3r_ros.mapping.types import Chunk, Prediction

ITERATIONS = 10
MIN_TIES = 30  # points that tie a frame to those before; fewer: its pose is not carried over
OUTLIER_PX = (5.0, 2.5)  # after the first and the second round
STILL_PX = 1.0  # median parallax below it says nothing about depth


@dataclass(frozen=True)
class RefinementReport:
    """What was done to a chunk, and on what evidence."""

    start: str  # depth, newest, still or network: where the poses came from; none: left alone
    reason: str = ""  # why nothing was refined, or rotation where there was no parallax
    tracks: int = 0
    landmarks: int = 0  # with enough parallax to correct depth
    inliers: float = 0.0  # share of the observations that fit
    rms_px: float = 0.0  # of the inliers, pixels of the tracking size
    carried: int = 0  # frames whose poses and depth are those of the chunk before
    far_end: Float[ndarray, " 7"] | None = None  # deviations of the newest camera, in the unit


class Refiner:
    """Remembers what it followed and matched in the frames that the next chunk shares."""

    def __init__(self) -> None:
        self._tracker, self._matcher = FeatureTracker(), DenseMatcher()
        self.calibration = SelfCalibration()
        self.seconds = 0.0  # spent here
        self._looked: tuple[Chunk, FeatureTracks] | None = None
        self._depth_size: tuple[int, int] | None = None  # of the chunk before
        self._loose: set[int] = set()  # frames that hardly anything tied to those before

    def look(self, chunk: Chunk, config: RefinementConfig) -> None:
        """What images alone tell, before the network has said anything: tracks, and flow where it
        is known how large depth will be."""
        began = time.perf_counter()
        tracks = self._tracker.track(chunk.frames, config)
        if config.densify and self._depth_size is not None and tracks.count >= config.min_tracks:
            size, names = matching_size(*self._depth_size), [f.index for f in chunk.frames]
            greys = zip(names, self._tracker.greys, strict=True)
            self._matcher.match([(n, self._matcher.grey(n, grey, *size)) for n, grey in greys])
        self._looked = chunk, tracks
        self.seconds += time.perf_counter() - began

    def refine(
        self,
        chunk: Chunk,
        prediction: Prediction,
        config: RefinementConfig,
        carried: Carried | None = None,
    ) -> tuple[Prediction, RefinementReport]:
        """Bundle adjustment from the best start, then depth by its landmarks; in the unit of what
        was carried over, else the network's. Measured depth is kept as it is."""
        if self._looked is None or self._looked[0] is not chunk:
            self.look(chunk, config)
        began = time.perf_counter()
        known = settled = 0
        prediction = self.calibration.apply(chunk, prediction)
        if carried is not None and config.carry and self.calibration.sigma(chunk) == 0:
            loose = [k for k, f in enumerate(chunk.frames) if f.index in self._loose]
            known = min([len(carried), *loose])  # what comes later is still to be found out
            settled = max(0, known - 1)  # the last had no neighbour behind it
            prediction = carry_over(prediction, carried, chunk.reference, settled)
        measured = measured_depth(chunk, prediction, known)
        refined, report = self._adjusted(chunk, prediction, measured, config, known, settled)
        refined = with_measured(refined, measured) if measured is not None else refined
        self._depth_size = refined.depth.shape[1], refined.depth.shape[2]
        self._looked = None  # its images need not be kept any longer
        self.seconds += time.perf_counter() - began
        return refined, replace(report, carried=known)

    def _adjusted(
        self,
        chunk: Chunk,
        prediction: Prediction,
        measured: MeasuredDepth | None,
        config: RefinementConfig,
        known: int,
        settled: int,
    ) -> tuple[Prediction, RefinementReport]:
        if len(chunk.frames) < 2:
            return prediction, RefinementReport("none", "a single frame")
        assert self._looked is not None
        tracks = self._looked[1]
        if tracks.count < config.min_tracks:
            return prediction, RefinementReport("none", "too few tracks", tracks.count)
        focal_sigma = self.calibration.sigma(chunk)
        observations = observe(chunk, prediction, measured, tracks, focal_sigma)
        start, state = best_start(chunk, prediction, observations, config, known)
        problem = chunk_problem(chunk, prediction, observations, config, known)
        kept, state = without_outliers(observations, problem, state, ROUGH_PX)
        for limit in OUTLIER_PX:
            problem = chunk_problem(chunk, prediction, kept, config, known)
            state, _ = adjust(problem, state, config, ITERATIONS)
            kept, state = without_outliers(kept, problem, state, limit)
            if kept.tracks.count < config.min_tracks:
                return prediction, RefinementReport("none", "tracks disagree", tracks.count)
        problem = chunk_problem(chunk, prediction, kept, config, known)
        C = covariance(problem, state, config)
        if focal_sigma > 0:
            self.calibration.learn(state.log_focal, float(np.sqrt(C[-1, -1])))
            prediction, kept = zoomed(prediction, state.log_focal), kept.zoomed(state.log_focal)
            state = replace(state, log_focal=0.0)
        landmarks = _landmarks(chunk_problem(chunk, prediction, kept, config, known), kept, state)
        self._loose = {chunk.frames[k].index for k in _loosely_tied(kept.tracks)}
        refined = replace(prediction, T_submap_cam=state.T_submap_cam)
        end = far_end(problem, state, C, landmarks.rms_px)
        refined, landmarks, s = _in_unit(refined, landmarks, config, known)
        end[3:6] *= s
        good = landmarks.parallax_rad > config.min_parallax_rad
        if good.sum() >= config.min_tracks:
            greys = self._tracker.greys
            refined = correct_depth(
                chunk, refined, landmarks, measured, self._matcher, greys, config, settled
            )
        parallax_px = float(np.median(landmarks.parallax_rad)) * float(kept.focal.mean())
        report = RefinementReport(
            start=start,
            far_end=end,
            reason="rotation" if parallax_px < STILL_PX else "",
            tracks=tracks.count,
            landmarks=int(good.sum()),
            inliers=len(kept.xy) / len(observations.xy),
            rms_px=landmarks.rms_px,
        )
        return refined, report


def _loosely_tied(tracks: FeatureTracks) -> list[int]:
    """Frames that see few of the points that frames before them saw."""
    seen = np.zeros((int(tracks.frame.max()) + 1, tracks.count), bool)
    seen[tracks.frame, tracks.track] = True
    before = np.logical_or.accumulate(seen, axis=0)[:-1]
    return (np.flatnonzero((before & seen[1:]).sum(axis=1) < MIN_TIES) + 1).tolist()


def _landmarks(problem: BundleProblem, kept: Observations, state: BundleState) -> Landmarks:
    error = np.linalg.norm(residuals(problem, state), axis=1)
    xyz = points(problem, state)
    centres = state.T_submap_cam[:, :3, 3]
    a = xyz[problem.track] - centres[problem.anchor[problem.track]]
    b = xyz[problem.track] - centres[problem.frame]
    sine = np.linalg.norm(np.cross(a, b), axis=1)
    angle = np.arctan2(sine, (a * b).sum(1))
    parallax = np.zeros(len(xyz))
    np.maximum.at(parallax, problem.track, angle)
    return Landmarks(
        xyz=xyz,
        parallax_rad=parallax,
        frame=kept.tracks.frame,
        track=kept.tracks.track,
        xy=kept.xy,
        predicted=np.where(kept.depth_sigma <= kept.depth_sigma.min(), kept.depth, 0),
        rms_px=float(np.sqrt((error**2).mean())),
    )


def _in_unit(
    refined: Prediction, landmarks: Landmarks, config: RefinementConfig, known: int
) -> tuple[Prediction, Landmarks, float]:
    """Scaled so that landmarks and depths agree in the median: with the depths that were carried
    over where there are any, else with the network's. Last the factor."""
    T = refined.T_submap_cam.copy()
    z = landmarks.depths(T)
    use = (z > 0) & (landmarks.predicted > 0)
    sure = use & (landmarks.parallax_rad > config.min_parallax_rad)[landmarks.track]
    carried = sure & (landmarks.frame < known)
    use = next((u for u in (carried, sure) if u.sum() >= config.min_tracks), use)
    s = float(np.exp(np.median(np.log(landmarks.predicted[use] / z[use])))) if use.any() else 1.0
    T[:, :3, 3] *= s
    return replace(refined, T_submap_cam=T), replace(landmarks, xyz=landmarks.xyz * s), s
