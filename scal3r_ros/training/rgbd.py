"""Sequences with a depth sensor as training samples: depth alone is learnt from them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from numpy import ndarray
from torch.utils.data import IterableDataset

from scal3r_ros.data.sequence_folder import SensorSequence
from scal3r_ros.training.samples import PATCH, ChunkSample, SampleConfig, random_size

MIN_MEASURED = 0.2  # of an image's pixels; with fewer it is not shown


@dataclass(frozen=True, eq=False)
class MeasuredImage:
    image: UInt8[ndarray, "h w 3"]
    depth: Float32[ndarray, "h w"]  # metres, 0 = none


class RgbdSamples(IterableDataset):
    """Endless, seeded windows of folders with `depth/` beside `images/`, of random stride, size and
    aspect. Raises SequenceError for a folder without depth, ValueError where nothing is left."""

    def __init__(
        self, folders: tuple[str, ...], config: SampleConfig, seed: tuple[int, ...]
    ) -> None:
        self.config, self.seed = config, seed
        self.sequences = [measured_images(Path(folder)) for folder in folders]
        if not self.sequences:
            raise ValueError("at least one folder of images and depth is needed")

    def __iter__(self) -> Iterator[list[ChunkSample]]:
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng([*self.seed, worker.id if worker else 0])
        while True:
            yield [self.window(rng)]

    def window(self, rng: np.random.Generator) -> ChunkSample:
        sequence = self.sequences[int(rng.integers(len(self.sequences)))]
        most = self.config.max_frames + 1
        frames = min(int(rng.integers(self.config.min_frames, most)), len(sequence))
        stride = int(rng.integers(1, max(2, min(6, len(sequence) // frames + 1))))
        first = int(rng.integers(len(sequence) - (frames - 1) * stride))
        chosen = sequence[first : first + frames * stride : stride]
        size = random_size(rng, int(rng.choice(self.config.patches)))
        cut = [fitted(measured, size) for measured in chosen]
        images = torch.from_numpy(np.stack([m.image for m in cut])).permute(0, 3, 1, 2)
        depth = torch.from_numpy(np.stack([m.depth for m in cut]))[None]
        reference = (frames + 1) // 2 - 1
        nowhere = torch.zeros(1, frames, 9)  # no pose is known
        return ChunkSample(images[None].float() / 255, depth, depth > 0, nowhere, reference, 0)


def measured_images(folder: Path) -> list[MeasuredImage]:
    """Those of a sequence that have enough depth; all of them are held, as large as they are."""
    kept = []
    for frame in SensorSequence(folder, "depth"):
        if frame.depth is None or (frame.depth > 0).mean() < MIN_MEASURED:
            continue
        kept.append(MeasuredImage(frame.image, frame.depth))
    if not kept:
        raise ValueError(f"{folder}: no image has depth in {MIN_MEASURED:.0%} of its pixels")
    return kept


def fitted(measured: MeasuredImage, size: tuple[int, int]) -> MeasuredImage:
    """The middle of an image at (height, width), multiples of the patch; depth by nearest pixel."""
    assert size[0] % PATCH == 0 and size[1] % PATCH == 0
    height, width = measured.image.shape[:2]
    depth = measured.depth
    if depth.shape != (height, width):
        depth = _resized(depth, (height, width), cv2.INTER_NEAREST_EXACT)
    scale = max(size[0] / height, size[1] / width)
    rows, columns = round(size[0] / scale), round(size[1] / scale)
    top, left = (height - rows) // 2, (width - columns) // 2
    part = (slice(top, top + rows), slice(left, left + columns))
    return MeasuredImage(
        _resized(measured.image[part], size, cv2.INTER_AREA),
        _resized(depth[part], size, cv2.INTER_NEAREST_EXACT),
    )


def _resized(image: ndarray, size: tuple[int, int], how: int) -> ndarray:
    return np.asarray(cv2.resize(image, size[::-1], interpolation=how))


def in_unit_of(predicted: Float[torch.Tensor, "b s h w"], sample: ChunkSample) -> ChunkSample:
    """The sample's depth in the unit that the network gives this chunk: metres are not asked of
    it. One scale for a chunk, the median of the ratios."""
    ratio = (predicted.detach() / sample.depth)[sample.valid]
    unit = ratio.median() if len(ratio) else predicted.new_ones(())
    return ChunkSample(
        sample.images,
        sample.depth * unit,
        sample.valid,
        sample.encoding,
        sample.reference,
        sample.overlap,
    )
