"""Metres per map unit: a robust filter in log scale over whatever observes it."""

from collections import deque

import numpy as np

from scal3r_ros.geometry.align import MAD_TO_SIGMA
from scal3r_ros.mapping.config import ScaleConfig


class ScaleEstimator:
    """Weighted median of recent log-scale observations; locked once they agree."""

    def __init__(self, config: ScaleConfig) -> None:
        self.config = config
        self._logs: deque[tuple[float, float]] = deque(maxlen=config.window)
        self.scale = config.fixed if config.source == "fixed" else 1.0
        self.locked = config.source == "fixed"

    @property
    def metric(self) -> bool:
        """Whether lengths are metres."""
        return self.locked

    @property
    def spread(self) -> float:
        """Robust relative spread of the observations; infinity without any."""
        if self.config.source == "fixed":
            return 0.0
        if len(self._logs) < 2:
            return np.inf
        logs = np.array([log for log, _ in self._logs])
        return MAD_TO_SIGMA * float(np.median(np.abs(logs - np.median(logs))))

    def observe(self, observed: float, weight: float = 1.0) -> bool:
        """Metres per map unit as one source sees it; True where the estimate changed.

        Raises ValueError on an observation that is no positive number.
        """
        if not (np.isfinite(observed) and observed > 0):
            raise ValueError(f"observed scale must be positive and finite, got {observed}")
        if self.config.source == "fixed":
            return False
        self._logs.append((float(np.log(observed)), weight))
        if self.locked or len(self._logs) < self.config.lock_after:
            return False
        if self.spread > self.config.lock_tolerance:
            return False
        self.scale, self.locked = float(np.exp(self._median())), True
        return True

    def _median(self) -> float:
        logs, weights = np.array(self._logs).T
        order = np.argsort(logs)
        middle = np.searchsorted(np.cumsum(weights[order]), weights.sum() / 2)
        return float(logs[order][middle])
