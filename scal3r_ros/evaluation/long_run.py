"""Does memory stay flat? Thousands of images through mapper and tracker, the network simulated.

A camera travels along a painted wall. Predictions have the size and the noise of real ones; all
else is what `scal3r map` runs: gate, chunker, refinement, registration, loops, graph, map.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from tqdm import tqdm

from scal3r_ros.evaluation.report import resident_mb
from scal3r_ros.geometry.camera import intrinsics, scale_intrinsics
from scal3r_ros.mapping.config import MapperConfig
from scal3r_ros.mapping.mapper import Mapper
from scal3r_ros.mapping.pipeline import map_sequence
from scal3r_ros.mapping.types import Chunk, Frame, MapUpdate, Prediction
from scal3r_ros.tracking.tracker import Tracker
from scal3r_ros.tracking.types import TrackerConfig

HEIGHT, WIDTH, FOCAL = 240, 320, 300.0
STEP_PX = 6.0  # by which the picture moves from image to image
BLOTS = (4, 12, 40)  # pixels
DISTANCE = 2.0  # m to the wall
PAGE = 40 * WIDTH  # pixels of the painting that are made at a time: beyond what the heap keeps
DEPTH_SIZE = (126, 168)  # of the nano network
DESCRIPTOR = 256
SAMPLES = 20


class SimulatedNetwork:
    """The wall's depth with noise, the true motion with noise, in a unit of its own per chunk."""

    on_host = True

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def initial_memory(self) -> object:
        return None

    def predict(
        self, chunk: Chunk, memory: object, *, write: bool = True
    ) -> tuple[Prediction, object]:
        rng, s = self.rng, len(chunk.frames)
        unit = float(np.exp(rng.normal(0, 0.2)))
        T = np.tile(np.eye(4), (s, 1, 1))
        x = np.array([f.index for f in chunk.frames]) * STEP_PX / FOCAL * DISTANCE
        T[:, 0, 3] = unit * (x - x[chunk.reference] + rng.normal(0, 0.002, s))
        depth = unit * DISTANCE * np.exp(rng.normal(0, 0.01, (s, *DEPTH_SIZE)))
        directions = rng.normal(size=(s, DESCRIPTOR)).astype(np.float32)
        K = scale_intrinsics(_camera(), (HEIGHT, WIDTH), DEPTH_SIZE)
        prediction = Prediction(
            depth=depth.astype(np.float32),
            confidence=(1 + rng.gamma(2, 2, depth.shape)).astype(np.float32),
            edge_certainty=rng.uniform(0.5, 1, depth.shape).astype(np.float32),
            K=np.tile(K, (s, 1, 1)),
            T_submap_cam=T,
            descriptors=directions / np.linalg.norm(directions, axis=1, keepdims=True),
        )
        return prediction, memory

    def use_smaller_images(self) -> bool:
        return False


def wall(frames: int, seed: int) -> Iterator[Frame]:
    """What the camera sees, at 10 Hz: another part of a painting in every image, never the same."""
    for index in range(frames):
        page, u = divmod(index * STEP_PX, PAGE)
        painting = _pages(seed, int(page))
        shift = np.array([[1, 0, u], [0, 1, 0]], np.float32)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        image = np.asarray(cv2.warpAffine(painting, shift, (WIDTH, HEIGHT), flags=flags))
        yield Frame(index, 100_000_000 * (index + 1), image, _camera())


def long_run(frames: int, config: MapperConfig) -> dict[str, Any]:
    """Host memory [MB] and seconds a chunk, at even steps of the way."""
    mapper = Mapper(SimulatedNetwork(0), config)
    samples: list[dict[str, Any]] = []

    def sample(frame: Frame, updates: list[MapUpdate]) -> None:
        bar.update()
        if (frame.index + 1) % max(frames // SAMPLES, 1) == 0:
            taken = mapper.counters.total_seconds[-SAMPLES:]
            samples.append(
                {
                    "frames": frame.index + 1,
                    "memory_mb": resident_mb(),
                    "chunk_s": float(np.median(taken)) if taken else 0.0,
                }
            )

    with tqdm(total=frames, desc="images", mininterval=10) as bar:
        map_sequence(wall(frames, 0), mapper, Tracker(TrackerConfig()), sample)
    fifth = len(samples) // 5
    begin, end = samples[fifth - 1 : 2 * fifth - 1], samples[-fifth:]  # from 2000 of 10 000
    return {
        "frames": frames,
        "chunks": mapper.counters.chunks,
        "points": mapper.point_map.clouds.points,
        "samples": samples,
        "memory_ratio": _ratio(end, begin, "memory_mb"),
        "time_ratio": _ratio(end, begin, "chunk_s"),
    }


def _ratio(end: list[dict[str, Any]], begin: list[dict[str, Any]], of: str) -> float:
    """Of medians: one sample alone scatters, memory by what the allocator holds back just then."""
    last, first = (float(np.median([sample[of] for sample in part])) for part in (end, begin))
    return last / first


def _camera() -> ndarray:
    return intrinsics(FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2)


@lru_cache(maxsize=1)
def _pages(seed: int, number: int) -> UInt8[ndarray, "h w 3"]:
    return np.concatenate([_page(seed, number), _page(seed, number + 1)[:, :WIDTH]], axis=1)


def _page(seed: int, number: int) -> UInt8[ndarray, "h w 3"]:
    """A part of the painting: blots of every size."""
    rng = np.random.default_rng((seed, number))
    mixed = np.zeros((HEIGHT, PAGE, 3), np.float32)
    for n in BLOTS:
        small = rng.random((HEIGHT // n, PAGE // n, 3), np.float32)
        mixed += cv2.resize(small, (PAGE, HEIGHT)) / len(BLOTS)
    return (255 * np.clip(2.2 * (mixed - 0.5) + 0.5, 0, 1)).astype(np.uint8)
