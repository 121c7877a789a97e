"""Keyframes become overlapping chunks; window and stride are separate, no frame is lost."""

from dataclasses import replace

from scal3r_ros.mapping.config import ChunkConfig
from scal3r_ros.mapping.types import Chunk, Frame

SHORTEST = 4  # keyframes of a chunk that still overlaps and advances


class Chunker:
    """A first partial chunk goes out early; then one every stride of new keyframes."""

    def __init__(self, config: ChunkConfig) -> None:
        self.config = config
        self.reset()

    def reset(self) -> None:
        self._frames: list[Frame] = []  # newest last; the window plus what is new
        self._new = 0
        self._index = 0

    def add(self, frame: Frame) -> Chunk | None:
        self._frames.append(frame)
        self._new += 1
        due = self.config.size - self.config.overlap if self._index else self.config.first_size
        return self._emit() if self._new >= due else None

    def flush(self) -> Chunk | None:
        """The last, shorter chunk; None where every keyframe has gone out."""
        return self._emit() if self._new else None

    def cut(self) -> None:
        """The next chunk shares nothing with the last (after a gap or a discarded chunk)."""
        self._frames = self._frames[len(self._frames) - self._new :]

    def split(self, chunk: Chunk, fits: int) -> list[Chunk]:
        """The newest chunk again in parts of at most `fits`, as short as all later ones will be.

        Raises ValueError where that is too few to overlap.
        """
        if fits < SHORTEST:
            raise ValueError(f"a chunk needs at least {SHORTEST} keyframes, only {fits} fit")
        overlap = min(self.config.overlap, fits // 2)
        first = min(self.config.first_size, fits)
        self.config = replace(self.config, size=fits, overlap=overlap, first_size=first)
        begin = max(0, chunk.overlap - overlap)
        shared = chunk.overlap - begin
        parts = []
        while not parts or parts[-1].frames[-1] is not chunk.frames[-1]:
            frames = chunk.frames[begin : begin + fits]
            index = self._index if parts else chunk.index
            self._index += bool(parts)
            parts.append(Chunk(index, frames, shared, (len(frames) + 1) // 2 - 1))
            begin, shared = begin + len(frames) - overlap, overlap
        self._frames = self._frames[-overlap:]
        return parts

    def _emit(self) -> Chunk:
        shared = min(self.config.overlap, len(self._frames) - self._new)
        frames = tuple(self._frames[len(self._frames) - self._new - shared :])
        chunk = Chunk(self._index, frames, shared, (len(frames) + 1) // 2 - 1)
        self._frames = list(frames[-self.config.overlap :])
        self._new = 0
        self._index += 1
        return chunk
