"""The thread that owns the mapper: images in order, commands between them, nothing else waits.

A reset raises an epoch number, and what an older epoch computed is dropped, so no old map comes
back. Commands answer through a future, so that a service never blocks the executor.
"""

import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from rclpy.task import Future

from scal3r_ros.mapping.mapper import Mapper
from scal3r_ros.mapping.types import Frame, MapUpdate
from scal3r_ros.ros.frame_queue import FrameQueue
from scal3r_ros.ros.running import stand_back

TURN_S = 0.1  # how often a waiting worker looks whether it should stop
POLL_S = 0.01  # how often a frame that waits for the robot's odometry is looked at


class MapWorker:
    """Calls back from its own thread: `complete` (None: not yet), `mapped`, `failed`."""

    def __init__(
        self,
        mapper: Mapper,
        frames: FrameQueue,
        *,
        complete: Callable[[Frame, float], Frame | None],
        mapped: Callable[[list[MapUpdate]], None],
        failed: Callable[[Exception], None],
        idle: Callable[[], bool],
        behind: bool = False,
    ) -> None:
        """`behind`: it takes only the time that nobody else wants."""
        self.mapper, self.frames = mapper, frames
        self._complete, self._mapped, self._failed, self._idle = complete, mapped, failed, idle
        self._behind = behind
        self._commands: list[tuple[Callable[[], Any], Future]] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._epoch = 0
        self.broken = False  # mapping failed: no image is taken, commands are (save, reset)
        self.last_s = time.monotonic()  # when something was mapped

    def start(self) -> None:
        self._stop.clear()
        self._thread = threading.Thread(target=self._work, name="mapper", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float = 20.0) -> None:
        """Ends after the chunk that is in the network; commands that still wait are refused."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=timeout_s)
            self._thread = None
        while self._commands:
            self._commands.pop(0)[1].set_exception(ValueError("the node is not active any more"))

    def submit(self, command: Callable[[], Any], executor: Any = None) -> Future:
        """Runs a command between two images; its result or exception goes into the future."""
        future = Future(executor=executor)
        self._commands.append((command, future))
        return future

    def drop_all(self) -> None:
        """What waits and what is in the network belongs to the past."""
        self._epoch += 1
        self.frames.clear()

    def run(self, action: Callable[[], list[MapUpdate]]) -> None:
        """Maps, and hands over the result unless a reset came in between."""
        epoch = self._epoch
        updates = action()
        if updates:
            self.last_s = time.monotonic()
        if epoch == self._epoch:
            self._mapped(updates)

    def _work(self) -> None:
        if self._behind:
            stand_back()
        while not self._stop.is_set():
            frame = None if self.broken else self.frames.get(TURN_S)
            self._obey()
            try:
                if self.broken:
                    self._stop.wait(TURN_S)
                elif frame is not None:
                    self._take(frame)
                elif self._idle():
                    self.run(self.mapper.flush)
            except Exception as error:  # what was mapped can still be saved
                self._break(error)

    def _break(self, error: Exception) -> None:
        traceback.print_exception(error)
        self.broken = True
        self._failed(error)

    def _take(self, frame: Frame) -> None:
        ready = None
        while ready is None and self.frames.is_current() and not self._stop.is_set():
            ready = self._complete(frame, self.frames.waited_s())
            if ready is None:
                time.sleep(POLL_S)
        if ready is not None and self.frames.is_current():
            self.run(lambda: self.mapper.add_frame(ready))

    def _obey(self) -> None:
        while self._commands:
            command, future = self._commands.pop(0)
            try:
                future.set_result(command())
            except (ValueError, OSError) as error:
                future.set_exception(error)
            except Exception as error:  # a fault of ours: whoever asked is told, too
                future.set_exception(error)
                self._break(error)
