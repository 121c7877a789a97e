"""What can tell how long a metre is: sensor depth, stereo, odometry, the camera's height, an IMU.

Each source looks at one submap and says metres per submap unit, with a relative deviation, or None
where this submap tells nothing. Whatever it says is only one observation for `mapping.scale`.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from scal3r_ros.geometry.align import MAD_TO_SIGMA, AlignmentError, umeyama
from scal3r_ros.mapping.config import ScaleConfig
from scal3r_ros.mapping.ground import ground_plane
from scal3r_ros.mapping.inertial import InertialLog, fit_scale
from scal3r_ros.mapping.measured_depth import metres
from scal3r_ros.mapping.types import Chunk, Submap

MIN_PIXELS = 100  # that both depths know
MIN_DEVIATION = 0.02  # relative; odometry is not trusted more
TRUSTED = 0.75  # quantile of confidence: depth that was triangulated, where any was
DEPTH_DEVIATION = 0.01  # a submap's depth errs as a whole against its poses
CORRELATED = 3.0  # errors along a chunk go together: times what independent ones would make
NEAR_S = 0.3  # around an image, in which an IMU says which way is up


class Observation(NamedTuple):
    observed: float  # metres per submap unit
    deviation: float  # relative


Source = Callable[[Chunk, Submap], Observation | None]


class ScaleSources:
    """The sources by name, with what they remember."""

    def __init__(self, config: ScaleConfig) -> None:
        self.config = config
        self.imu = InertialLog()

    def observe(self, chunk: Chunk, submap: Submap) -> Observation | None:
        known: dict[str, Source] = {
            "depth": from_depth,
            "stereo": from_depth,
            "odometry": self._from_odometry,
            "camera_height": self._from_height,
            "imu": self._from_imu,
        }
        source = known.get(self.config.source)
        return source(chunk, submap) if source else None

    def imu_up(self, submap: Submap) -> Float[ndarray, " 3"] | None:
        """Up in the submap's axes, the mean over its cameras: what a camera's own acceleration and
        turning spoil in one moment evens out."""
        near = [self.imu.up(stamp, NEAR_S) for stamp in submap.stamps_ns]
        known = zip(submap.T_submap_cam, near, strict=True)
        ups = [T[:3, :3] @ up for T, up in known if up is not None]
        return np.mean(ups, axis=0) if ups else None

    def _from_odometry(self, chunk: Chunk, submap: Submap) -> Observation | None:
        """Regression of the submap's path on that of the odometry, which is the surer one over so
        short a time; noise in the regressor would bias it. The lever arm is in the poses already.
        Trusted as far as the two paths have the same shape."""
        known = [(f.T_odom_cam, T) for f, T in zip(chunk.frames, submap.T_submap_cam, strict=True)]
        pairs = [(odom[:3, 3], T[:3, 3]) for odom, T in known if odom is not None]
        if len(pairs) < 4:
            return None
        metres, units = (np.array(column) for column in zip(*pairs, strict=True))
        length = float(np.linalg.norm(np.diff(metres, axis=0), axis=1).sum())
        if length < self.config.min_baseline:
            return None
        try:
            fit = umeyama(metres, units, np.ones(len(metres)), allow_line=True)
        except AlignmentError:
            return None
        spread, spread_units, apart = (
            float((x**2).sum(axis=1).mean())
            for x in (
                metres - metres.mean(axis=0),
                units - units.mean(axis=0),
                metres - fit.apply(units),
            )
        )
        scale = spread / (fit.s * spread_units)
        return Observation(scale, max(MIN_DEVIATION, CORRELATED * np.sqrt(apart / spread)))

    def _from_height(self, chunk: Chunk, submap: Submap) -> Observation | None:
        plane = ground_plane(submap)
        if plane is None:
            return None
        return Observation(self.config.camera_height / plane.height, max(0.03, plane.spread))

    def _from_imu(self, chunk: Chunk, submap: Submap) -> Observation | None:
        stamps, T = submap.stamps_ns, submap.T_submap_cam
        fit = fit_scale(self.imu, stamps, T, self.config.min_baseline)
        return Observation(*fit) if fit else None


def from_depth(chunk: Chunk, submap: Submap) -> Observation | None:
    """Median ratio of the sensor's depth, or a stereo pair's, to the map's, over pixels that both
    know."""
    logs = []
    for frame, depth, confidence in zip(chunk.frames, submap.depth, submap.confidence, strict=True):
        sensor = metres(frame, depth.shape)
        if sensor is None:
            continue
        trusted = confidence >= np.quantile(confidence, TRUSTED)
        both = (sensor > 0) & (depth > 0) & trusted
        if both.sum() >= MIN_PIXELS:
            logs.append(np.median(np.log(sensor[both] / depth[both].astype(np.float64))))
    if not logs:
        return None
    middle = float(np.median(logs))
    spread = MAD_TO_SIGMA * float(np.median(np.abs(np.array(logs) - middle)))
    return Observation(float(np.exp(middle)), max(DEPTH_DEVIATION, spread / np.sqrt(len(logs))))
