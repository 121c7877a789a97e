"""mapping_node with a network that misbehaves as the variable FAKE_NETWORK says: what no test can
make a real one do at will. A flat wall, seen by a camera that moves sideways."""

import os
import time
from types import SimpleNamespace

import numpy as np

from scal3r_ros.mapping import predictor
from scal3r_ros.mapping.types import Chunk, ChunkTooLargeError, Prediction
from scal3r_ros.ros import mapping_node

HEIGHT, WIDTH = 168, 224


class FakeNetwork:
    """FAKE_NETWORK: `nan` (the second chunk), `breaks` (the second and the sixth), `oom` (more
    than nine frames), `large` (images are, until they become smaller), `slow` (3 s)."""

    device = "fake"
    on_host = False

    def __init__(self) -> None:
        self.fault = os.environ.get("FAKE_NETWORK", "")
        self.chunks = 0
        self.size = (HEIGHT, WIDTH)
        self.model = SimpleNamespace()

    def gpu_memory(self) -> tuple[int, int]:
        return 0, 0

    def gpu_temperature(self) -> float:
        return 61.4

    def initial_memory(self) -> int:
        return 0

    def use_smaller_images(self) -> bool:
        self.size = (HEIGHT // 2, WIDTH // 2)
        return True

    def predict(
        self, chunk: Chunk, memory: object, *, write: bool = True
    ) -> tuple[Prediction, object]:
        count = len(chunk.frames)
        if self.fault == "oom" and count > 9:
            raise ChunkTooLargeError("out of GPU memory: tried to allocate 7 GiB", count // 2)
        if self.fault == "large" and self.size == (HEIGHT, WIDTH):
            raise ChunkTooLargeError("out of GPU memory: tried to allocate 7 GiB", 2)
        if self.fault == "slow":
            time.sleep(3.0)
        self.chunks += 1
        if self.fault == "breaks" and self.chunks in (2, 6):
            raise RuntimeError("a fault that nobody thought of")
        depth = np.full((count, *self.size), 2.0, np.float32)
        if self.fault == "nan" and self.chunks == 2:
            depth[0, 0, 0] = np.nan
        T = np.tile(np.eye(4), (count, 1, 1))
        T[:, 0, 3] = [0.02 * (f.index - chunk.frames[chunk.reference].index) for f in chunk.frames]
        height, width = self.size
        f = 200.0 * width / WIDTH
        K = np.array([[f, 0, width / 2], [0, f, height / 2], [0, 0, 1]])
        ones = np.ones_like(depth)
        descriptors = np.eye(64, dtype=np.float32)[[f.index % 64 for f in chunk.frames]]
        return Prediction(depth, 2 * ones, ones, np.tile(K, (count, 1, 1)), T, descriptors), 0


def main() -> None:
    predictor.NetworkPredictor.load = lambda *_, **__: FakeNetwork()  # type: ignore[method-assign]
    mapping_node.main()


if __name__ == "__main__":
    main()
