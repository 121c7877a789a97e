"""The worker of mapping_node: what waits, what fails, what is asked of it then."""

import time
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest

from scal3r_ros.mapping.config import MapperConfig
from scal3r_ros.mapping.mapper import Mapper
from scal3r_ros.mapping.types import Frame, MapUpdate
from scal3r_ros.ros.frame_queue import FrameCounters, FrameQueue
from scal3r_ros.ros.worker import MapWorker
from test.conftest import TruthPredictor

pytestmark = pytest.mark.ros


class Watched(Mapper):
    """Tells what it is given; `fault` is raised by the next image."""

    def __init__(self, *given) -> None:
        super().__init__(*given)
        self.frames: list[Frame] = []
        self.fault: Exception | None = None

    def add_frame(self, frame: Frame) -> list[MapUpdate]:
        fault, self.fault = self.fault, None
        if fault is not None:
            raise fault
        self.frames.append(frame)
        return super().add_frame(frame)


@pytest.fixture
def made(walk) -> Iterator[SimpleNamespace]:
    mapper = Watched(TruthPredictor(walk.clip), MapperConfig())
    frames, failed = FrameQueue(256, FrameCounters()), []
    parts = SimpleNamespace(mapper=mapper, frames=frames, failed=failed)
    parts.complete = lambda frame, waited_s: frame
    parts.worker = MapWorker(
        mapper,
        frames,
        complete=lambda frame, waited_s: parts.complete(frame, waited_s),
        mapped=lambda updates: None,
        failed=failed.append,
        idle=lambda: False,
    )
    yield parts
    parts.worker.close()


def image(stamp_ns: int) -> Frame:
    return Frame(stamp_ns, stamp_ns, np.zeros((112, 154, 3), np.uint8))


def until(reached, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_images_wait_for_is_waited_for_since_they_came(made):
    """Thirty images whose depth never comes: half a second for all, not for each."""
    made.complete = lambda frame, waited_s: None if waited_s < 0.5 else frame
    for k in range(30):
        made.frames.put(image(k))
    made.worker.start()
    until(lambda: len(made.mapper.frames) == 30, 5.0)


def test_after_a_fault_commands_are_obeyed_and_one_can_mend_it(made):
    made.worker.start()
    made.mapper.fault = RuntimeError("odd")
    made.frames.put(image(1))
    until(lambda: made.failed)
    made.frames.put(image(2))
    asked = made.worker.submit(lambda: len(made.mapper.frames))
    until(asked.done)
    assert asked.result() == 0 and made.worker.broken

    def mend() -> None:
        made.worker.broken = False

    made.worker.submit(mend)
    until(lambda: made.mapper.frames)
    assert [f.index for f in made.mapper.frames] == [2]


def test_whoever_asks_is_told_of_a_fault_and_no_image_is_taken_after_it(made):
    made.frames.put(image(1))
    asked = made.worker.submit(lambda: {}["nothing"])
    made.worker.start()
    until(asked.done)
    until(lambda: made.failed)
    made.worker.close()
    assert isinstance(asked.exception(), KeyError) and made.worker.broken
    assert not made.mapper.frames


def test_a_command_that_is_refused_breaks_nothing(made):
    def full() -> None:
        raise OSError("no space left")

    made.worker.start()
    asked = made.worker.submit(full)
    until(asked.done)
    assert "no space" in str(asked.exception()) and not made.worker.broken


def test_what_is_asked_too_late_is_refused(made):
    asked = made.worker.submit(lambda: 1)
    made.worker.close()
    assert asked.done() and "not active" in str(asked.exception())
