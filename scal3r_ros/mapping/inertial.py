"""An inertial unit beside the camera: which way is up, and how long a metre is (experimental).

Between keyframes the specific force is integrated twice; gravity, the start velocities and the
scale that make the camera's path agree with it follow from linear least squares (the loosely
coupled alignment of Martinelli 2013 and of Qin et al. 2018, section V).
"""

import threading
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.spatial.transform import Rotation

KEPT_S = 120.0
MIN_SAMPLES = 4  # between two keyframes
NEAR_NS = 25_000_000  # between an image and the newest sample: no need to wait for more
LONGEST_NS = 150_000_000  # that a sample stands for at most: how the camera turned
GRAVITY = 9.81  # m/s^2
MAX_GRAVITY_ERROR = 0.1  # relative: else the fit is wrong
MIN_DEVIATION, MAX_DEVIATION = 0.02, 0.2  # relative, of an answer
INERTIAL_WEIGHT = 10.0  # velocities of the unit are surer than differences of poses
GRAVITY_WEIGHT = 10.0  # of its known length
BIAS = 0.05  # m/s^2, deviation of an accelerometer's constant error
ROUNDS = 3  # with both, after one without
CORRELATED = 2.0  # errors of poses go together: times what independent ones would make
SURE = 1e3  # weight of what is taken for granted


Sample = tuple[int, Float[ndarray, " 3"], Float[ndarray, " 3"]]  # stamp [ns], gyro, force


class Span(NamedTuple):
    """What the unit felt between two stamps, in the axes of the camera at the first."""

    seconds: float
    dv: Float[ndarray, " 3"]  # integral of the specific force, m/s
    dp: Float[ndarray, " 3"]  # integral of that, m


class InertialLog:
    """Samples in the camera's axes, of the last two minutes. Thread-safe."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque()
        self._lock = threading.Lock()

    def add(self, stamp_ns: int, gyro: Float[ndarray, " 3"], force: Float[ndarray, " 3"]) -> None:
        """Angular velocity [rad/s] and specific force [m/s^2] in camera axes."""
        with self._lock:
            if self._samples and stamp_ns <= self._samples[-1][0]:
                return
            self._samples.append((stamp_ns, gyro, force))
            while self._samples[-1][0] - self._samples[0][0] > KEPT_S * 1e9:
                self._samples.popleft()

    def clear(self) -> None:
        with self._lock:
            self._samples.clear()

    def reaches(self, stamp_ns: int) -> bool:
        """Whether samples have come up to a stamp, but for a fraction of their distance."""
        with self._lock:
            return bool(self._samples) and stamp_ns - self._samples[-1][0] < NEAR_NS

    def up(self, stamp_ns: int, seconds: float = 1.0) -> Float[ndarray, " 3"] | None:
        """Direction of the mean specific force around a stamp: up, while it does not accelerate."""
        with self._lock:
            near = [f for s, _, f in self._samples if abs(s - stamp_ns) <= seconds * 1e9]
        if len(near) < MIN_SAMPLES:
            return None
        mean = np.mean(near, axis=0)
        length = float(np.linalg.norm(mean))
        return mean / length if length > 0.5 * GRAVITY else None

    def between(self, begin_ns: int, end_ns: int) -> Span | None:
        """None where too few samples cover the time."""
        inside = self._inside(begin_ns, end_ns)
        if len(inside) < MIN_SAMPLES:
            return None
        R, dv, dp = np.eye(3), np.zeros(3), np.zeros(3)
        for dt, gyro, force in _steps(inside, begin_ns, end_ns):
            felt = R @ Rotation.from_rotvec(gyro * dt / 2).as_matrix() @ force
            dp = dp + dv * dt + felt * dt * dt / 2
            dv = dv + felt * dt
            R = R @ Rotation.from_rotvec(gyro * dt).as_matrix()
        return Span((end_ns - begin_ns) * 1e-9, dv, dp)

    def turn(self, begin_ns: int, end_ns: int) -> Float[ndarray, "3 3"] | None:
        """R_begin_end of the camera, by the gyroscope alone; None where nothing was felt near the
        begin. Where samples are missing, or are still under way, what those beside it say counts
        for `LONGEST_NS`; for the rest of such a gap the camera is taken to be at rest."""
        inside = self._inside(begin_ns, end_ns)
        inside = [(begin_ns, *s[1:]) for s in self._last_before(begin_ns)] + inside
        if not inside or inside[0][0] - begin_ns > LONGEST_NS:
            return None
        R = Rotation.identity()
        for dt, gyro, _ in _steps(inside, begin_ns, end_ns):
            R = R * Rotation.from_rotvec(gyro * min(dt, LONGEST_NS * 1e-9))
        return R.as_matrix()

    def _last_before(self, stamp_ns: int) -> list[Sample]:
        """The last one, if it is not too old to tell anything of that moment."""
        with self._lock:
            before = next((s for s in reversed(self._samples) if s[0] < stamp_ns), None)
        return [before] if before and stamp_ns - before[0] <= LONGEST_NS else []

    def _inside(self, begin_ns: int, end_ns: int) -> list[Sample]:
        found = []
        with self._lock:
            for sample in reversed(self._samples):
                if sample[0] < begin_ns:
                    break
                if sample[0] <= end_ns:
                    found.append(sample)
        return found[::-1]


def _steps(
    inside: list[Sample], begin_ns: int, end_ns: int
) -> Iterator[tuple[float, Float[ndarray, " 3"], Float[ndarray, " 3"]]]:
    """(seconds, mean angular velocity, mean force) from sample to sample; the ends are a fraction
    of a sample away."""
    stamps = [begin_ns, *(s[0] for s in inside), end_ns]
    held = [inside[0], *inside, inside[-1]]
    for k in range(len(held) - 1):
        gyro, force = (np.add(held[k][i], held[k + 1][i]) / 2 for i in (1, 2))
        yield (stamps[k + 1] - stamps[k]) * 1e-9, gyro, force


def fit_scale(
    log: InertialLog,
    stamps_ns: tuple[int, ...],
    T_submap_cam: Float[ndarray, "s 4 4"],
    min_baseline: float,
) -> tuple[float, float] | None:
    """Metres per submap unit and the relative deviation; None without enough excitation, or with a
    gravity that is none."""
    count = len(stamps_ns)
    spans = [log.between(*stamps_ns[k : k + 2]) for k in range(count - 1)]
    if count < 5 or any(span is None for span in spans):
        return None
    felt = [span for span in spans if span is not None]
    R, p = T_submap_cam[:, :3, :3], T_submap_cam[:, :3, 3]
    fit = _solved(*_equations(felt, R, p, None))
    if fit is None or abs(fit.gravity_m_s2 / GRAVITY - 1) > MAX_GRAVITY_ERROR:
        return None
    for _ in range(ROUNDS):
        fit = _solved(*_equations(felt, R, p, fit))
        if fit is None:
            return None
    way = float(np.linalg.norm(np.diff(p, axis=0), axis=1).sum()) / fit.units
    if way < min_baseline or fit.deviation > MAX_DEVIATION:
        return None
    return 1 / fit.units, max(MIN_DEVIATION, fit.deviation)


class Fit(NamedTuple):
    """Solution of the alignment."""

    units: float  # of the submap in a metre
    gravity_m_s2: float
    down: Float[ndarray, " 3"]
    deviation: float  # of the units, relative
    noise: float  # of what is left over


def _solved(A: Float[ndarray, "m n"], b: Float[ndarray, " m"]) -> Fit | None:
    """None where something cannot be told, or the scale is not positive."""
    solution, _, rank, _ = np.linalg.lstsq(A, b, rcond=None)
    units, length = float(solution[0]), float(np.linalg.norm(solution[1:4]))
    if rank < A.shape[1] or units <= 0 or length <= 0:
        return None
    residual = A @ solution - b
    sigma2 = float(residual @ residual) / max(len(b) - A.shape[1], 1)
    deviation = CORRELATED * float(np.sqrt(sigma2 * np.linalg.inv(A.T @ A)[0, 0])) / units
    return Fit(units, length / units, solution[1:4] / length, deviation, float(np.sqrt(sigma2)))


def _equations(
    spans: list[Span],
    R: Float[ndarray, "s 3 3"],
    p: Float[ndarray, "s 3"],
    before: Fit | None,
) -> tuple[Float[ndarray, "m n"], Float[ndarray, " m"]]:
    """Rows for the submap units of a metre, gravity (3), the accelerometer's bias (3) and the
    velocity at every keyframe (3 each), these in submap units. The poses are what is measured and
    what is noisy; were the scale their factor, noise would make it too small. Once there is a fit,
    gravity has its known length and the bias its usual size; till then there is none."""
    count = len(p)
    first = 7  # of the velocities
    rows, values = [], []
    for k, span in enumerate(spans):
        dt = span.seconds
        place = np.zeros((3, first + 3 * count))
        place[:, 0] = R[k] @ span.dp
        place[:, 1:4] = np.eye(3) * dt * dt / 2
        place[:, 4:7] = -R[k] * dt * dt / 2
        place[:, first + 3 * k : first + 3 * k + 3] = np.eye(3) * dt
        speed = np.zeros((3, first + 3 * count))
        speed[:, 0] = R[k] @ span.dv
        speed[:, 1:4] = np.eye(3) * dt
        speed[:, 4:7] = -R[k] * dt
        speed[:, first + 3 * k : first + 3 * k + 6] = np.eye(6)[:3] - np.eye(6)[3:]
        rows += [place / dt, INERTIAL_WEIGHT * speed]
        values += [(p[k + 1] - p[k]) / dt, np.zeros(3)]
    known = np.zeros((4, first + 3 * count))
    known[:3, 4:7] = np.eye(3) * (SURE if before is None else before.noise / (BIAS * before.units))
    if before is not None:
        known[3, 0], known[3, 1:4] = -GRAVITY_WEIGHT * GRAVITY, GRAVITY_WEIGHT * before.down
    return np.concatenate([*rows, known]), np.concatenate([*values, np.zeros(4)])
