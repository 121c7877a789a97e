"""What waits between a callback and a worker: bounded, and thinned evenly."""

import threading
import time
from dataclasses import dataclass

from scal3r_ros.mapping.types import Frame


@dataclass
class FrameCounters:
    received: int = 0
    dropped_overload: int = 0
    dropped_invalid: int = 0
    dropped_in_a_row: int = 0  # invalid ones


class FrameQueue:
    """Between callback and worker. When full every second waiting frame goes: evenly, counted. Or
    the oldest, where that is asked for.

    Frames that have become keyframes are not in here.
    """

    def __init__(self, limit: int, counters: FrameCounters, policy: str = "thin") -> None:
        self.limit, self.counters, self.policy = limit, counters, policy
        self._frames: list[tuple[float, Frame]] = []  # when it came, and what
        self._ready = threading.Condition()
        self._generation = self._taken = 0
        self._came_s = 0.0  # of the one taken last

    def put(self, frame: Frame) -> None:
        with self._ready:
            self._frames.append((time.monotonic(), frame))
            if len(self._frames) > self.limit:
                before = len(self._frames)
                first = 1 - before % 2  # the newest stays
                self._frames = self._frames[first::2] if self.policy == "thin" else self._frames[1:]
                self.counters.dropped_overload += before - len(self._frames)
            self._ready.notify()

    def get(self, timeout_s: float) -> Frame | None:
        with self._ready:
            if not self._frames:
                self._ready.wait(timeout_s)
            if not self._frames:
                return None
            self._taken = self._generation
            self._came_s, frame = self._frames.pop(0)
            return frame

    def waited_s(self) -> float:
        """Since the frame taken last arrived."""
        return time.monotonic() - self._came_s

    def clear(self) -> None:
        """Takes back the frame too that the worker has not begun with: see `is_current`."""
        with self._ready:
            self._frames.clear()
            self._generation += 1

    def is_current(self) -> bool:
        """Whether the frame taken last belongs to what is going on now."""
        with self._ready:
            return self._taken == self._generation

    def __len__(self) -> int:
        return len(self._frames)
