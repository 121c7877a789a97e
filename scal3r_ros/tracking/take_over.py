"""The program of the process in which keyframes are taken over (see `catching_up`)."""

import os
import signal
import sys
from multiprocessing.connection import Connection
from typing import Any

import cv2
from jaxtyping import Float
from numpy import ndarray

from scal3r_ros.tracking.messages import Ready, TurnAsked, from_bytes, to_bytes
from scal3r_ros.tracking.tracker import Tracker

NICENESS = 5  # images go first


def take_over(connection: Connection) -> None:
    """One keyframe, and the images that come meanwhile; None instead of one: give the tracker."""

    def receive() -> Any:
        return from_bytes(connection.recv_bytes())

    def send(message: object) -> None:
        connection.send_bytes(to_bytes(message))

    def turn(begin_ns: int, end_ns: int) -> Float[ndarray, "3 3"] | None:
        send(TurnAsked(begin_ns, end_ns))
        return receive()

    tracker, keyframe = receive()
    assert isinstance(tracker, Tracker)
    tracker.turn = turn
    tracker.set_keyframe(keyframe)
    send(Ready())
    while (seen := receive()) is not None:
        tracker.track_small(*seen)
        send(Ready())
    tracker.turn = None
    send(tracker)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # meant for the owner
    os.nice(NICENESS)
    cv2.setNumThreads(1)
    with Connection(int(sys.argv[1])) as connection:
        while True:
            try:
                take_over(connection)
            except (EOFError, ConnectionError):
                return


if __name__ == "__main__":
    main()
