"""What the owner of a tracker and the process beside it tell each other, and its bytes.

Arrays travel as safetensors, the rest as JSON. Nothing is unpickled: out come only the classes that
are listed here.
"""

import json
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from safetensors.numpy import load, save

from scal3r_ros.geometry.keyframe import Keyframe
from scal3r_ros.tracking.history import History, TrackedImage
from scal3r_ros.tracking.points import Points
from scal3r_ros.tracking.tracker import Tracker
from scal3r_ros.tracking.types import TrackedPose, TrackerConfig


class SeenImage(NamedTuple):
    """As the tracker keeps it, small and grey."""

    grey: UInt8[ndarray, "h w"]
    K: Float[ndarray, "3 3"]  # pixels of `grey`
    stamp_ns: int


class TurnAsked(NamedTuple):
    """The gyroscope is on the other side."""

    begin_ns: int
    end_ns: int


class Ready(NamedTuple):
    """For the next image."""


MESSAGES = {kind.__name__: kind for kind in (SeenImage, TurnAsked, Ready)}
STATES = {
    kind.__name__: kind
    for kind in (Tracker, TrackerConfig, TrackedPose, TrackedImage, History, Points, Keyframe)
}


def to_bytes(message: object) -> bytes:
    """Raises TypeError for what is neither plain nor listed here."""
    arrays: dict[str, ndarray] = {}
    text = json.dumps(_taken_apart(message, arrays))
    return save(arrays | {"text": np.frombuffer(text.encode(), np.uint8)})


def from_bytes(data: bytes) -> Any:
    """The message; tuples without a name come as lists."""
    arrays = load(data)
    return _put_together(json.loads(arrays.pop("text").tobytes()), arrays)


def _taken_apart(value: Any, arrays: dict[str, ndarray]) -> Any:
    kind = type(value).__name__
    if isinstance(value, ndarray):
        arrays[str(len(arrays))] = np.ascontiguousarray(value)
        return {"array": str(len(arrays) - 1)}
    if kind in MESSAGES or kind in STATES:
        fields = value._asdict() if kind in MESSAGES else vars(value)
        return {"kind": kind} | {name: _taken_apart(v, arrays) for name, v in fields.items()}
    if isinstance(value, list | tuple):
        return [_taken_apart(v, arrays) for v in value]
    return value.item() if isinstance(value, np.generic) else value


def _put_together(value: Any, arrays: dict[str, ndarray]) -> Any:
    if isinstance(value, list):
        return [_put_together(v, arrays) for v in value]
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return arrays[value["array"]].copy()  # its own, to be written to
    kind = value.pop("kind")
    fields = {name: _put_together(v, arrays) for name, v in value.items()}
    if kind in MESSAGES:
        return MESSAGES[kind](**fields)
    state = object.__new__(STATES[kind])
    vars(state).update(fields)
    return state
