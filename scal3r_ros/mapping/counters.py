"""What happened so far, for status and report."""

from dataclasses import dataclass, field


@dataclass
class Counters:
    frames: int = 0
    keyframes: int = 0
    chunks: int = 0
    loops: int = 0
    loops_refused: int = 0
    components: int = 0  # pieces of the map that no overlap connects
    chunks_discarded: int = 0  # unusable predictions
    interruptions: int = 0  # breaks in the stream of images
    predict_seconds: list[float] = field(default_factory=list)
    total_seconds: list[float] = field(default_factory=list)
