"""What images alone tell, found out while the network computes."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

from scal3r_ros.mapping.types import Chunk

if TYPE_CHECKING:
    from scal3r_ros.mapping.mapper import Mapper


@contextmanager
def looking(mapper: "Mapper", chunk: Chunk) -> Iterator[None]:
    """Tracks, flow and words of a chunk, beside what the block does; what fails is raised at its
    end, unless the block itself fails. Where the network keeps the processor busy they are left
    for afterwards."""
    if mapper.predictor.on_host:
        yield
        return
    with ThreadPoolExecutor(1, thread_name_prefix="looking") as beside:
        done = beside.submit(_look, mapper, chunk)
        yield
        done.result()


def _look(mapper: "Mapper", chunk: Chunk) -> None:
    if mapper.config.refinement.enabled:
        mapper.refiner.look(chunk, mapper.config.refinement)
    if mapper.config.loops.enabled:
        mapper.loop_detector.look(chunk.frames)
