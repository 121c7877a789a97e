"""A tracker that never waits for a keyframe: a copy takes it over while images go on.

Keyframes show the past; following their corners up to now takes many images' time. A copy of the
tracker does it in a thread of its own and catches up with the images that come meanwhile, leaving
some out. When it is nearly there it takes the place of the tracker, at the very same pose.
"""

import threading
from typing import NamedTuple

from jaxtyping import Float, UInt8
from numpy import ndarray

from scal3r_ros.geometry.keyframe import Keyframe
from scal3r_ros.tracking.motion import Turn
from scal3r_ros.tracking.tracker import Tracker
from scal3r_ros.tracking.types import TrackedPose, TrackerConfig

NEAR = 2  # images that the present thread catches up with itself
MOST = 60  # images that may wait for the copy: beyond, the keyframe is given up
LONGEST_WAIT_S = 0.2  # for the present thread
STEPS = 8  # images at most in which the copy crosses what waits


class SeenImage(NamedTuple):
    image: UInt8[ndarray, "h w 3"]
    K: Float[ndarray, "3 3"]
    stamp_ns: int


class BackgroundTracker:
    """As `Tracker`, for one thread that tracks in real time."""

    def __init__(self, config: TrackerConfig, turn: Turn | None = None) -> None:
        self._live = Tracker(config, turn)
        self._copy: Tracker | None = None  # while a keyframe is taken over
        self._waiting: list[SeenImage] = []  # that the copy has not seen
        self._next: Keyframe | None = None  # came while another was taken over
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._idle = threading.Event()  # no image is tracked
        self._idle.set()
        self.given_up = 0  # keyframes

    def reset(self) -> None:
        with self._lock:
            self._copy, self._next, self._waiting = None, None, []
        self._live.reset()

    def set_keyframe(self, keyframe: Keyframe) -> None:
        """Returns at once. The newest keyframe is taken over next."""
        if self._thread is not None and self._thread.is_alive():
            self._next = keyframe
            return
        copy = self._live.clone()
        copy.pause = self._wait_for_turn
        with self._lock:
            self._copy, self._waiting = copy, []
        self._thread = threading.Thread(
            target=self._take_over, args=(copy, keyframe), name="keyframe", daemon=True
        )
        self._thread.start()

    def track(
        self, image: UInt8[ndarray, "h w 3"], K: Float[ndarray, "3 3"], stamp_ns: int
    ) -> TrackedPose | None:
        self._swap()
        self._idle.clear()
        try:
            pose = self._live.track(image, K, stamp_ns)
        finally:
            self._idle.set()
        with self._lock:
            if self._copy is not None:
                self._waiting.append(SeenImage(image, K, stamp_ns))
                if len(self._waiting) > MOST:
                    self._copy, self._waiting = None, []
                    self.given_up += 1
        return pose

    def _take_over(self, copy: Tracker, keyframe: Keyframe) -> None:
        copy.set_keyframe(keyframe)
        while True:
            with self._lock:
                if self._copy is not copy or len(self._waiting) <= NEAR:
                    return
                step = max(1, len(self._waiting) // STEPS)
                seen, self._waiting = self._waiting[step - 1], self._waiting[step:]
            self._wait_for_turn()
            copy.track(*seen)

    def _wait_for_turn(self) -> None:
        """The interpreter runs one of both: an image that has come goes first."""
        self._idle.wait(LONGEST_WAIT_S)

    def _swap(self) -> None:
        """Where the copy has caught up, it goes on from here."""
        if self._thread is None or self._thread.is_alive():
            return
        self._thread = None
        with self._lock:
            copy, rest = self._copy, self._waiting
            self._copy, self._waiting = None, []
        if copy is not None:
            for seen in rest:
                copy.track(*seen)
            copy.continue_from(self._live)
            copy.pause = self._live.pause
            self._live = copy
        following, self._next = self._next, None
        if following is not None:
            self.set_keyframe(following)
