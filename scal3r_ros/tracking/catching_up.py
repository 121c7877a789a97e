"""The process in which a copy of the tracker takes a keyframe over, seen by its owner.

In a thread the copy would hold the interpreter for milliseconds at a time, and every image would
wait. The process talks over a socket that it inherits (none but its owner can), and ends when that
is closed, however its owner ended.
"""

import os
import subprocess
import sys
from multiprocessing import Pipe

from scal3r_ros.tracking.messages import TurnAsked, from_bytes, to_bytes
from scal3r_ros.tracking.motion import Turn

PROGRAM = "scal3r_ros.tracking.take_over"
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


class CatchingUp:
    """The owner's side. Raises EOFError or OSError where the process has ended."""

    def __init__(self) -> None:
        self._connection, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", PROGRAM, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=os.environ | ONE_THREAD,
            )

    def send(self, message: object) -> None:
        self._connection.send_bytes(to_bytes(message))

    def receive(self, turn: Turn | None) -> object:
        """The next answer; questions about a turn are answered meanwhile."""
        while isinstance(answer := from_bytes(self._connection.recv_bytes()), TurnAsked):
            self.send(turn(*answer) if turn is not None else None)
        return answer

    def close(self) -> None:
        """Whatever it was doing. Who waits for an answer gets EOFError."""
        self._process.kill()
        self._process.wait()
