"""From a stream of images to chunks of keyframes: gate, chunker, where the stream breaks off."""

from scal3r_ros.mapping.chunker import Chunker
from scal3r_ros.mapping.config import KeyframeConfig, MapperConfig
from scal3r_ros.mapping.continuity import Continuity
from scal3r_ros.mapping.counters import Counters
from scal3r_ros.mapping.keyframes import KeyframeGate
from scal3r_ros.mapping.measured_depth import with_stereo_depth
from scal3r_ros.mapping.types import Chunk, Frame


class ChunkStream:
    """Images in, chunks out; no keyframe is lost, and no chunk spans a break."""

    def __init__(self, config: MapperConfig, counters: Counters) -> None:
        self.counters = counters
        self.continuity = Continuity(config.keyframes)
        self.gate = KeyframeGate(config.keyframes)
        self.chunker = Chunker(config.chunks)
        self.broken = ""  # what ended the last piece

    def add(self, frame: Frame) -> list[Chunk]:
        """What an image completes: a chunk of keyframes; before it, where the stream broke off, the
        last chunk of the piece that ended. Loops may join the pieces."""
        self.counters.frames += 1
        due: list[Chunk | None] = []
        self.broken = self.continuity.broken(frame)
        if self.broken:
            self.counters.interruptions += 1
            due.append(self.end_piece())
        if self.gate.accept(frame):
            self.counters.keyframes += 1
            due.append(self.chunker.add(with_stereo_depth(frame)))
        return [chunk for chunk in due if chunk is not None]

    def adopt(self, config: KeyframeConfig) -> None:
        """Other settings from the next image on."""
        self.continuity.config = self.gate.config = config

    def end_piece(self) -> Chunk | None:
        """What waits, as a last chunk; nothing that comes later overlaps with it."""
        last = self.chunker.flush()
        self.chunker.cut()
        self.gate.reset()
        return last
