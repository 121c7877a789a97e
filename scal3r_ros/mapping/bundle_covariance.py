"""How sure bundle adjustment is of what it found: marginals of its normal equations.

They count every pixel's error as one of its own, but errors of a track go together: the true ones
are 4 to 19 times as large (rotation; lengths 5 to 13 times), on five sequences with ground truth.
"""

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from scal3r_ros.mapping.bundle import normal_equations, typical_pace
from scal3r_ros.mapping.bundle_problem import BundleProblem, BundleState
from scal3r_ros.mapping.config import RefinementConfig

MODESTY = 8.0  # true deviation over the formal one
LEAST = 1e-9  # of the largest eigenvalue: what is not determined at all has none below
MOST = 1.0, 1.0, 0.5  # rotation [rad], way [median depth], log scale: nothing is said beyond


def covariance(
    problem: BundleProblem, state: BundleState, config: RefinementConfig
) -> Float[ndarray, "k k"]:
    """Of all poses (rotation of the body, translation in the submap; zero for the reference), last
    of the log focal length where it is not known; formal."""
    normal = normal_equations(problem, state, config, 0.0, typical_pace(problem, state))
    found = np.zeros((normal.W.shape[1],) * 2)
    values, vectors = np.linalg.eigh(normal.H)
    values = np.maximum(values, LEAST * values[-1])
    found[np.ix_(normal.free, normal.free)] = (vectors / values) @ vectors.T
    return found


def far_end(
    problem: BundleProblem, state: BundleState, C: Float[ndarray, "k k"], pixel_sigma: float
) -> Float[ndarray, " 7"]:
    """Deviations of the newest camera against the reference: rotation [rad], translation [submap
    units], and of the log of lengths after the reference over those before; honest, the residuals
    being of `pixel_sigma`."""
    s, r = len(state.T_submap_cam), problem.reference
    poses = C[: 6 * s, : 6 * s]
    newest = np.sqrt(np.diag(poses)[-6:])
    by_place = np.zeros((s, 6))
    for part, sign in ((slice(r, s), 1.0), (slice(0, r + 1), -1.0)):
        places = state.T_submap_cam[part, :3, 3]
        arms = places - places.mean(axis=0)
        by_place[part, 3:] += sign * arms / max(float((arms**2).sum()), 1e-12)
    gradient = by_place.reshape(-1)
    deviations = MODESTY * pixel_sigma * np.append(newest, np.sqrt(gradient @ poses @ gradient))
    depth = float(np.exp(np.median(state.log_depth)))
    turn, way, scale = MOST
    return np.minimum(deviations, [turn] * 3 + [way * depth] * 3 + [scale])
