"""The network behind the mapper: this room knows torch here and in `network_output` alone."""

import logging
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scal3r_ros.mapping.config import NetworkConfig
from scal3r_ros.mapping.network_output import to_prediction
from scal3r_ros.mapping.types import Chunk, ChunkTooLargeError, Frame, Prediction, PredictionError
from scal3r_ros.network.acceleration import choose_compile, store
from scal3r_ros.network.aggregator import MemoryPolicy
from scal3r_ros.network.checkpoint import CheckpointError, load_model
from scal3r_ros.network.devices import (
    MemoryBudget,
    choose_device,
    choose_precision,
    gpu_temperature,
    inference,
)
from scal3r_ros.network.memory import GlobalContext
from scal3r_ros.network.memory_file import load_context, save_context
from scal3r_ros.network.parallel import remember_parallel
from scal3r_ros.network.preprocess import (
    Crop,
    plan_crop,
    preprocess,
    target_by_area,
    target_by_width,
)
from scal3r_ros.network.scal3r import ChunkImages, Scal3R, Scal3RConfig

logger = logging.getLogger(__name__)

NANO_WEIGHTS = Path(__file__).parent.parent / "weights" / "nano.safetensors"
NANO_PATCHES = 108  # per frame, what the nano weights were trained at
NANO_MANY = 130  # beyond it they do as well in rooms with squares of patches, in less time
SMALLER = 0.75  # width and height of images for want of memory, against those before
SMALLEST = 0.4  # of the size that was asked for
HOW_TO_GET = (
    "the published scal3r.pt is not part of this package: download it (`scal3r weights download`) "
    "and pass its path as the checkpoint"
)


class NetworkPredictor:
    """Runs one chunk through `Scal3R`; the memory is passed in and returned."""

    def __init__(
        self,
        model: Scal3R,
        *,
        device: torch.device,
        precision: torch.dtype = torch.float32,
        settings: NetworkConfig | None = None,
    ) -> None:
        self.settings = settings or NetworkConfig()
        self.model = model.to(device).eval().requires_grad_(False)
        store(self.model, precision, device)
        self._trained_side = self.model.config.global_side
        self.device, self.precision = device, precision
        self.budget = MemoryBudget(device, self.settings.max_gpu_memory)
        self._tuned = self.settings.compile != "auto"
        if self._tuned:
            self.model.compile_blocks(self.settings.compile)
        self._size = 1.0  # of images, against what was asked for
        self._kept: dict[tuple[int, Crop], tuple[Tensor, Tensor]] = {}  # image, encoder's output

    @classmethod
    def load(
        cls,
        model: str = "nano",
        checkpoint: Path | None = None,
        *,
        device: str = "auto",
        precision: str = "auto",
        depth_head: str = "auto",
        settings: NetworkConfig | None = None,
    ) -> "NetworkPredictor":
        """Reads weights; raises CheckpointError where there are none: never random weights."""
        where = choose_device(device)
        path = Path(checkpoint) if checkpoint else _default_checkpoint(model)
        network = load_model(
            path, _config(model), depth_head=depth_head, device=where, progress=model != "nano"
        )
        logger.info("%s: %s on %s", model, path, where)
        rounding = choose_precision(precision, where)
        return cls(network, device=where, precision=rounding, settings=settings)

    @property
    def on_host(self) -> bool:
        return self.device.type == "cpu"

    def gpu_memory(self) -> tuple[int, int]:
        """Bytes used and there are; zeros on a CPU."""
        if self.device.type != "cuda":
            return 0, 0
        free, total = torch.cuda.mem_get_info(self.device)
        return total - free, total

    def gpu_temperature(self) -> float | None:
        """Degrees Celsius; None on a CPU, and where nothing tells it."""
        return gpu_temperature(self.device)

    def use_smaller_images(self) -> bool:
        """For want of memory; False where they are as small as makes sense."""
        if self._size * SMALLER < SMALLEST:
            return False
        self._size *= SMALLER
        self.budget.bytes_per_frame *= SMALLER**2
        return True

    def warm_up(self, frames: int, size: tuple[int, int] = (480, 640)) -> None:
        """A blank chunk: kernels are loaded and chosen before the first real one waits for them.

        What the device has no room for is found out by the first real chunk.
        """
        blank = np.zeros((*size, 3), np.uint8)
        chunk = Chunk(0, tuple(Frame(i, i, blank) for i in range(frames)), 0, frames // 2)
        try:
            self.predict(chunk, self.initial_memory())
        except ChunkTooLargeError as error:
            logger.warning("warm-up: %s", error)
        self._kept.clear()

    def initial_memory(self) -> GlobalContext:
        return GlobalContext()

    def save_memory(self, path: Path, memory: object) -> None:
        assert isinstance(memory, GlobalContext)
        save_context(path, memory, self.model)

    def load_memory(self, path: Path) -> GlobalContext:
        """Raises CheckpointError for a memory of other weights."""
        return load_context(path, self.model)

    def predict(
        self, chunk: Chunk, memory: object, *, write: bool = True
    ) -> tuple[Prediction, object]:
        """One pass. Without memory each chunk sees only its own gradient, as in training.

        Raises ChunkTooLargeError where the GPU has no room for so many frames.
        """
        assert isinstance(memory, GlobalContext)
        frames = len(chunk.frames)
        fits = self.budget.fits(frames)
        if fits is not None and fits < frames:
            raise ChunkTooLargeError(f"{frames} keyframes do not fit the GPU, {fits} do", fits)
        try:
            with self.budget.watch(frames):
                return self._predict(chunk, memory, write)
        except torch.OutOfMemoryError as error:
            message = str(error).splitlines()[0]
        self._kept.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        raise ChunkTooLargeError(f"out of GPU memory: {message}", frames // 2)

    def _predict(
        self, chunk: Chunk, memory: GlobalContext, write: bool
    ) -> tuple[Prediction, GlobalContext]:
        settings = self.settings
        if write and 0 < settings.reset_every <= memory.chunks:  # what is only read, is complete
            memory = GlobalContext()
        before = memory if settings.memory else None
        inputs = self.prepare(chunk, chunk.overlap if before else 0, keep=chunk.index >= 0)
        policy = MemoryPolicy(write=write, forget=settings.forget, window=settings.memory_window)
        with inference(self.device, self.precision):
            if not self._tuned:  # with the first chunk, as it comes
                choose_compile(self.model, partial(self._depth, inputs, before, policy))
                self._tuned = True
            outputs, updated = self.model([inputs], before, policy)
        prediction = to_prediction(outputs[0], chunk, self.crop(chunk.frames[0]))
        return prediction, updated if settings.memory else memory

    def _depth(
        self, inputs: ChunkImages, before: GlobalContext | None, policy: MemoryPolicy
    ) -> Tensor:
        return self.model([inputs], before, policy)[0][0].depth

    def prepare(self, chunk: Chunk, overlap: int, *, keep: bool = True) -> ChunkImages:
        """The network's input; `overlap` leading frames are in the memory already. What was
        prepared and encoded for the previous chunk is not done again; `keep` for the next."""
        crop = self.crop(chunk.frames[0])
        self.model.look_at_squares(self._squares(crop))
        keys = [(frame.index, crop) for frame in chunk.frames]
        known = {key: self._kept[key] for key in keys if key in self._kept}
        new = [i for i, key in enumerate(keys) if key not in known]
        if new:
            pixels = [np.ascontiguousarray(chunk.frames[i].image) for i in new]
            images = torch.stack([preprocess(torch.from_numpy(p), crop) for p in pixels])
            images = images.to(self.device)
            with inference(self.device, self.precision):
                patches = self.model.encode(images[None])[0]
            known |= {keys[i]: (images[n], patches[n]) for n, i in enumerate(new)}
        self._kept = known if keep else self._kept
        images, patches = (
            torch.stack(part)[None] for part in zip(*(known[k] for k in keys), strict=True)
        )
        return ChunkImages(images, chunk.reference, overlap, patches)

    def remember(self, chunks: list[ChunkImages], *, parallel: bool = False) -> GlobalContext:
        """The memory of a whole sequence, every frame counted once: of the chunks of this process
        or, in parallel, of all processes. All of them lie on the device at once: raises
        PredictionError where it has no room."""
        remember = remember_parallel if parallel else Scal3R.remember
        try:
            with inference(self.device, self.precision):
                return remember(self.model, chunks)
        except torch.OutOfMemoryError as error:
            cause = str(error).splitlines()[0]
            raise PredictionError(
                f"{len(chunks)} chunks at once do not fit the GPU, the causal schedule takes one: "
                f"{cause}"
            ) from error

    def _squares(self, crop: Crop) -> int:
        """What was asked for; else as trained, but where nano's images are large."""
        patches = crop.size[0] * crop.size[1] // self.model.config.patch**2
        usual = 2 if self.is_small and patches > NANO_MANY else self._trained_side
        return self.settings.attention_squares or usual

    @property
    def is_small(self) -> bool:
        """Nano, or of its kind."""
        return self.model.config.image_width < 518

    def crop(self, frame: Frame) -> Crop:
        height, width = frame.image.shape[:2]
        patch = self.model.config.patch
        asked = self.settings.image_width
        if not asked and self.is_small:
            patches = round(NANO_PATCHES * self._size**2)
            target = target_by_area(height, width, patches, patch)
        else:
            wide = asked or self.model.config.image_width
            if self._size < 1:
                wide = round(wide * self._size / patch) * patch
            target = target_by_width(height, width, wide, patch)
        return plan_crop(height, width, target, patch)


def _default_checkpoint(model: str) -> Path:
    if model == "nano":
        if not NANO_WEIGHTS.is_file():
            raise CheckpointError(f"the nano weights are missing: expected {NANO_WEIGHTS}")
        return NANO_WEIGHTS
    if model == "scal3r":
        raise CheckpointError(f"model scal3r needs a checkpoint: {HOW_TO_GET}")
    raise ValueError(f"model must be nano or scal3r, got {model}")


def _config(model: str) -> Scal3RConfig:
    return Scal3RConfig.nano() if model == "nano" else Scal3RConfig.scal3r()
