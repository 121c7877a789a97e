"""The program of the process in which keyframes are taken over (see `catching_up`)."""

import os
import signal
import sys
from multiprocessing.connection import Connection

import cv2
from jaxtyping import Float
from numpy import ndarray

from scal3r_ros.tracking.catching_up import Ready, TurnAsked
from scal3r_ros.tracking.tracker import Tracker

NICENESS = 5  # images go first


def take_over(connection: Connection) -> None:
    """One keyframe, and the images that come meanwhile; None instead of one: give the tracker."""
    tracker, keyframe = connection.recv()
    assert isinstance(tracker, Tracker)

    def turn(begin_ns: int, end_ns: int) -> Float[ndarray, "3 3"] | None:
        connection.send(TurnAsked(begin_ns, end_ns))
        return connection.recv()

    tracker.turn = turn
    tracker.set_keyframe(keyframe)
    connection.send(Ready())
    while (seen := connection.recv()) is not None:
        tracker.track_small(*seen)
        connection.send(Ready())
    tracker.turn = None
    connection.send(tracker)


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
