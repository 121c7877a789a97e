"""A tracker that never waits for a keyframe: a copy takes it over while images go on.

Keyframes show the past; following their corners up to now takes many images' time. A copy of the
tracker does it in a process of its own and catches up with the images that come meanwhile, leaving
some out. When it is nearly there it takes the place of the tracker, at the very same pose.
"""

import threading

from jaxtyping import Float, UInt8
from numpy import ndarray

from scal3r_ros.geometry.keyframe import Keyframe
from scal3r_ros.tracking.catching_up import CatchingUp
from scal3r_ros.tracking.features import small_grey
from scal3r_ros.tracking.messages import SeenImage
from scal3r_ros.tracking.motion import Turn
from scal3r_ros.tracking.tracker import Tracker
from scal3r_ros.tracking.types import TrackedPose, TrackerConfig

NEAR = 2  # images that the present thread catches up with itself
MOST = 60  # images that may wait for the copy: beyond, the keyframe is given up
STEPS = 8  # images at most in which the copy crosses what waits


class BackgroundTracker:
    """As `Tracker`, for one thread that tracks in real time."""

    def __init__(self, config: TrackerConfig, turn: Turn | None = None) -> None:
        self._live, self._turn = Tracker(config, turn), turn
        self._process = CatchingUp()
        self._wanted = False  # the copy: no reset since, not too far behind
        self._copy: Tracker | None = None  # that has taken a keyframe over
        self._waiting: list[SeenImage] = []  # that the copy has not seen
        self._next: Keyframe | None = None  # came while another was taken over
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closed = False
        self.given_up = 0  # keyframes

    def close(self) -> None:
        self._closed = True
        self._process.close()
        if self._thread is not None:
            self._thread.join()

    def reset(self) -> None:
        with self._lock:
            self._wanted, self._next, self._waiting = False, None, []
        self._live.reset()

    def set_keyframe(self, keyframe: Keyframe) -> None:
        """Does not wait. The newest keyframe is taken over next; a copy that is ready and has had
        no image yet goes first: where images come in bursts there would never be a pose."""
        self._next = keyframe
        self._swap()

    def _begin(self, keyframe: Keyframe) -> None:
        copy = self._live.clone()
        copy.turn = None  # asked for by message
        self._copy, self._waiting, self._wanted = None, [], True
        self._thread = threading.Thread(
            target=self._take_over, args=(copy, keyframe), name="keyframe", daemon=True
        )
        self._thread.start()

    def track(
        self, image: UInt8[ndarray, "h w 3"], K: Float[ndarray, "3 3"], stamp_ns: int
    ) -> TrackedPose | None:
        self._swap()
        seen = SeenImage(*small_grey(image, K, self._live.config.max_width), stamp_ns)
        pose = self._live.track_small(*seen)
        with self._lock:
            if self._wanted:
                self._waiting.append(seen)
                if len(self._waiting) > MOST:
                    self._give_up()
        return pose

    def _give_up(self) -> None:
        self._wanted, self._waiting = False, []
        self.given_up += 1

    def _take_over(self, copy: Tracker, keyframe: Keyframe) -> None:
        """Beside the images; the process does the work."""
        try:
            self._process.send((copy, keyframe))
            self._process.receive(self._turn)
            while (seen := self._next_seen()) is not None:
                self._process.send(seen)
                self._process.receive(self._turn)
            self._process.send(None)
            answer = self._process.receive(self._turn)
        except (EOFError, OSError):  # it was killed, or closed
            with self._lock:
                self._give_up()
            if not self._closed:  # another one takes over the next keyframe
                self._process.close()
                self._process = CatchingUp()
            return
        assert isinstance(answer, Tracker)
        self._copy = answer

    def _next_seen(self) -> SeenImage | None:
        """None: the copy is near enough, or no longer wanted."""
        with self._lock:
            if not self._wanted or len(self._waiting) <= NEAR:
                return None
            step = max(1, len(self._waiting) // STEPS)
            seen, self._waiting = self._waiting[step - 1], self._waiting[step:]
            return seen

    def _swap(self) -> None:
        """Where the copy has caught up, it goes on from here; then the next keyframe's turn."""
        if self._thread is not None and self._thread.is_alive():
            return
        self._thread = None
        with self._lock:
            copy, rest, wanted = self._copy, self._waiting, self._wanted
            self._copy, self._waiting, self._wanted = None, [], False
        if wanted and copy is not None:
            copy.turn = self._turn
            for seen in rest:
                copy.track_small(*seen)
            copy.continue_from(self._live)
            self._live = copy
        following, self._next = self._next, None
        if following is not None:
            self._begin(following)
