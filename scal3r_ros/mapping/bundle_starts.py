"""What bundle adjustment of a chunk is asked, and where it starts: a wrong minimum looks like a
right one from inside, so several starts are tried where the first does not fit well."""

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from scal3r_ros.geometry.camera import rays
from scal3r_ros.geometry.sim3 import invert_pose
from scal3r_ros.mapping.bundle import adjust, residuals
from scal3r_ros.mapping.bundle_problem import BundleProblem, BundleState
from scal3r_ros.mapping.config import RefinementConfig
from scal3r_ros.mapping.initial_poses import (
    Observations,
    anchors,
    place_all,
    robust_misfit,
    triangulate,
)
from scal3r_ros.mapping.types import Chunk, Prediction

GOOD_FIT = 0.7  # mean cost of an observation: a start that fits
GOOD_FRAME = 1.25  # that of the worst frame: it fits every frame
FEW = 20  # observations, that say nothing about a frame
TRIAL_ITERATIONS = 4  # of every start before it is chosen
LAST_ITERATIONS = 15  # of all of them, where none was
WIDE_PX, WIDE_ITERATIONS = 20.0, 8  # of the robust kernel where a start is rough
ROUGH_PX = 10.0  # of a start: what is further off is no match
INTERVALS = (0.25, 4.0)  # least and most time between frames, of the median


def chunk_problem(
    chunk: Chunk,
    prediction: Prediction,
    observations: Observations,
    config: RefinementConfig,
    known: int,
) -> BundleProblem:
    tracks = observations.tracks
    anchor, _ = anchors(observations, np.ones(len(observations.focal), bool))
    others = anchor[tracks.track] != np.arange(len(tracks.track))
    depth = observations.depth[anchor]
    T = prediction.T_submap_cam
    return BundleProblem(
        frame=tracks.frame[others],
        track=tracks.track[others],
        xy=observations.xy[others],
        focal=observations.focal,
        anchor=tracks.frame[anchor],
        ray=rays(observations.xy[anchor]),
        log_depth_prior=np.log(np.where(depth > 0, depth, observations.median_depth)),
        depth_sigma=np.where(depth > 0, observations.depth_sigma[anchor], 10.0),
        motion_prior=invert_pose(T[:-1]) @ T[1:],
        motion_sigma=_motion_sigmas(len(T) - 1, known, observations.median_depth, config),
        interval=_intervals(chunk),
        reference=chunk.reference,
        focal_sigma=observations.focal_sigma,
    )


def _motion_sigmas(
    pairs: int, known: int, depth: float, config: RefinementConfig
) -> Float[ndarray, "pairs 6"]:
    """Little trust in what the network says, much in what the chunk before has refined."""
    weak = [config.prior_rotation_rad] * 3 + [config.prior_translation * depth] * 3
    sure = [config.carried_rotation_rad] * 3 + [config.carried_translation * depth] * 3
    return np.array([sure if k < known - 1 else weak for k in range(pairs)])


def _intervals(chunk: Chunk) -> Float[ndarray, " pairs"]:
    """Time between neighbouring frames over its median, within reason: stamps may be odd."""
    seconds = np.diff([float(f.stamp_ns - chunk.frames[0].stamp_ns) for f in chunk.frames])
    return np.clip(seconds / max(float(np.median(seconds)), 1.0), *INTERVALS)


def best_start(
    chunk: Chunk,
    prediction: Prediction,
    observations: Observations,
    config: RefinementConfig,
    known: int,
) -> tuple[str, BundleState]:
    """A few iterations from every start. The first that fits every frame is taken; else what fits
    best of those that begin at either end, if it fits; else of all, after some more iterations:
    good starts have far to go where depth is bent."""
    problem = chunk_problem(chunk, prediction, observations, config, known)
    s = len(observations.focal)
    network = invert_pose(prediction.T_submap_cam[chunk.reference]) @ prediction.T_submap_cam
    placed = np.arange(s) < known if known > chunk.reference else np.arange(s) == chunk.reference

    def from_newest() -> Float[ndarray, "s 4 4"]:
        T = place_all(observations, network, np.arange(s) == s - 1, problem.motion_prior)
        return invert_pose(T[chunk.reference]) @ T

    starts = {
        "depth": lambda: place_all(observations, network, placed, problem.motion_prior),
        "newest": from_newest,  # for what is known may be wrong
        "still": lambda: network[_nearest(placed)],
        "network": lambda: network,
    }
    trials: dict[str, BundleState] = {}

    def best() -> str:
        return min(trials, key=lambda name: _misfits(problem, trials[name])[0])

    for name, start in starts.items():
        T = start()
        depth, _ = triangulate(observations, T, np.ones(s, bool))
        state = BundleState(T, np.log(depth))
        if name == "still":  # far from the truth in all, but wrong in none
            wide = replace(config, huber_px=WIDE_PX)
            state, _ = adjust(problem, state, wide, WIDE_ITERATIONS)
        trials[name], _ = adjust(problem, state, config, TRIAL_ITERATIONS)
        everywhere, worst = _misfits(problem, trials[name])
        if everywhere < GOOD_FIT and worst < GOOD_FRAME:
            return name, trials[name]
        if name == "newest" and _misfits(problem, trials[best()])[0] < GOOD_FIT:
            return best(), trials[best()]
    for name, state in trials.items():
        kept, state = without_outliers(observations, problem, state, ROUGH_PX)
        closer = chunk_problem(chunk, prediction, kept, config, known)
        state, _ = adjust(closer, state, config, LAST_ITERATIONS)
        zoomed_in = observations.zoomed(state.log_focal)
        depth, _ = triangulate(zoomed_in, state.T_submap_cam, np.ones(s, bool))
        trials[name] = replace(state, log_depth=np.log(depth))
    return best(), trials[best()]


def _misfits(problem: BundleProblem, state: BundleState) -> tuple[float, float]:
    """Mean cost of an observation, of all frames and of the worst."""
    cost = robust_misfit(np.hypot(*residuals(problem, state).T))
    count = np.bincount(problem.frame)
    of_frames = np.bincount(problem.frame, cost)[count > FEW] / count[count > FEW]
    return float(cost.mean()), float(of_frames.max(initial=0.0))


def _nearest(placed: Bool[ndarray, " s"]) -> Int[ndarray, " s"]:
    """Of every frame, the nearest that is placed."""
    apart = np.abs(np.subtract.outer(np.arange(len(placed)), np.flatnonzero(placed)))
    return np.flatnonzero(placed)[apart.argmin(axis=1)]


def without_outliers(
    observations: Observations, problem: BundleProblem, state: BundleState, limit_px: float
) -> tuple[Observations, BundleState]:
    tracks = observations.tracks
    anchor, _ = anchors(observations, np.ones(len(observations.focal), bool))
    is_anchor = anchor[tracks.track] == np.arange(len(tracks.track))
    keep = np.ones(len(tracks.track), bool)
    keep[~is_anchor] = np.linalg.norm(residuals(problem, state), axis=1) < limit_px
    alive = np.bincount(tracks.track[keep], minlength=tracks.count) >= 2
    return observations.select(keep), replace(state, log_depth=state.log_depth[alive])
