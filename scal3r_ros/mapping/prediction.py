"""What the mapper asks of a network: one chunk in, a prediction and the next memory out."""

from typing import Protocol, runtime_checkable

from scal3r_ros.mapping.types import Chunk, Prediction


@runtime_checkable
class Predictor(Protocol):
    """The memory is a value that only the predictor understands; the mapper carries it."""

    @property
    def on_host(self) -> bool:
        """Whether it keeps the processor busy: then nothing else is done beside it."""
        ...

    def predict(
        self, chunk: Chunk, memory: object, *, write: bool = True
    ) -> tuple[Prediction, object]:
        """With `write` False the memory is read and returned as it was (loop bridges)."""
        ...

    def use_smaller_images(self) -> bool:
        """Asked where not even a short chunk fits the device; False: they cannot be smaller."""
        ...

    def initial_memory(self) -> object: ...
