"""The network behind the mapper: the only module of this room that knows torch."""

import logging
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from scal3r_ros.geometry.sim3 import invert_pose
from scal3r_ros.mapping.types import Chunk, Frame, Prediction, PredictionError
from scal3r_ros.network.aggregator import MemoryPolicy
from scal3r_ros.network.camera_head import decode_camera
from scal3r_ros.network.checkpoint import CheckpointError, load_model
from scal3r_ros.network.memory import GlobalContext
from scal3r_ros.network.parallel import remember_parallel
from scal3r_ros.network.preprocess import (
    Crop,
    plan_crop,
    preprocess,
    target_by_area,
    target_by_width,
)
from scal3r_ros.network.scal3r import ChunkImages, ChunkOutput, Scal3R, Scal3RConfig

logger = logging.getLogger(__name__)

NANO_WEIGHTS = Path(__file__).parent.parent / "weights" / "nano.safetensors"
NANO_PATCHES = 108  # per frame, what the nano weights were trained at
MAX_DEPTH = 1000.0  # submap units; beyond it nothing was measured
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
        memory: bool = True,
        forget: float = 1.0,
        image_width: int | None = None,
    ) -> None:
        self.model = model.to(device).eval()
        self.device, self.precision = device, precision
        self.memory, self.forget, self.image_width = memory, forget, image_width
        self._patches: OrderedDict[tuple[int, int], Tensor] = OrderedDict()  # kept encoder output

    @classmethod
    def load(
        cls,
        model: str = "nano",
        checkpoint: Path | None = None,
        *,
        device: str = "auto",
        precision: str = "auto",
        depth_head: str = "moe",
        memory: bool = True,
        forget: float = 1.0,
        image_width: int | None = None,
    ) -> "NetworkPredictor":
        """Reads weights; raises CheckpointError where there are none: never random weights."""
        where = choose_device(device)
        path = Path(checkpoint) if checkpoint else _default_checkpoint(model)
        network = load_model(path, _expected_config(model, depth_head))
        if network.config.depth_head != depth_head:
            raise CheckpointError(
                f"{path} has a {network.config.depth_head} depth head, asked for {depth_head}"
            )
        logger.info("%s: %s on %s", model, path, where)
        return cls(
            network,
            device=where,
            precision=choose_precision(precision, where),
            memory=memory,
            forget=forget,
            image_width=image_width,
        )

    def gpu_memory(self) -> tuple[int, int]:
        """Bytes used and there are; zeros on a CPU."""
        if self.device.type != "cuda":
            return 0, 0
        free, total = torch.cuda.mem_get_info(self.device)
        return total - free, total

    def initial_memory(self) -> GlobalContext:
        return GlobalContext()

    def predict(
        self, chunk: Chunk, memory: object, *, write: bool = True
    ) -> tuple[Prediction, object]:
        """One pass. Without memory each chunk sees only its own gradient, as in training."""
        assert isinstance(memory, GlobalContext)
        crop = self.crop(chunk.frames[0])
        inputs = self.prepare(chunk, chunk.overlap if self.memory and memory else 0)
        policy = MemoryPolicy(write=write, forget=self.forget)
        with torch.inference_mode(), self._autocast():
            context = memory if self.memory else None
            outputs, updated = self.model([inputs], context, policy)
        prediction = to_prediction(outputs[0], chunk, crop)
        return prediction, updated if self.memory else memory

    def prepare(self, chunk: Chunk, overlap: int) -> ChunkImages:
        """The network's input; `overlap` leading frames are in the memory already."""
        crop = self.crop(chunk.frames[0])
        images = torch.stack([self._image(frame, crop) for frame in chunk.frames])[None]
        return ChunkImages(images, chunk.reference, overlap, self._encode(chunk, images))

    def remember(self, chunks: list[ChunkImages], *, parallel: bool = False) -> GlobalContext:
        """The memory of a whole sequence, every frame counted once: of the chunks of this process
        or, in parallel, of all processes."""
        with torch.inference_mode(), self._autocast():
            return (
                remember_parallel(self.model, chunks) if parallel else self.model.remember(chunks)
            )

    def crop(self, frame: Frame) -> Crop:
        height, width = frame.image.shape[:2]
        patch = self.model.config.patch
        if self.image_width is None and self.model.config.image_width < 518:
            target = target_by_area(height, width, NANO_PATCHES, patch)
        else:
            wide = self.image_width or self.model.config.image_width
            target = target_by_width(height, width, wide, patch)
        return plan_crop(height, width, target, patch)

    def _image(self, frame: Frame, crop: Crop) -> Tensor:
        pixels = torch.from_numpy(np.ascontiguousarray(frame.image))
        return preprocess(pixels, crop).to(self.device)

    def _autocast(self) -> torch.autocast:
        enabled = self.precision != torch.float32
        return torch.autocast(self.device.type, dtype=self.precision, enabled=enabled)

    def _encode(self, chunk: Chunk, images: Float[Tensor, "1 s 3 h w"]) -> Tensor:
        """Patch tokens; those of frames seen in the previous chunk are not computed again."""
        keys = [(frame.index, images.shape[-1]) for frame in chunk.frames]
        new = [i for i, key in enumerate(keys) if key not in self._patches]
        with torch.inference_mode(), self._autocast():
            if new:
                fresh = self.model.encode(images[:, new])[0]
                self._patches.update({keys[i]: fresh[n] for n, i in enumerate(new)})
        patches = torch.stack([self._patches[key] for key in keys])[None]
        for key in [k for k in self._patches if k not in set(keys)]:
            del self._patches[key]
        return patches


def to_prediction(output: ChunkOutput, chunk: Chunk, crop: Crop) -> Prediction:
    """Host arrays of one chunk; K is the camera's where it is known, else the network's."""
    encoding = output.encodings[-1][0].float()
    if not torch.isfinite(encoding).all():
        raise PredictionError("prediction.T_submap_cam must be finite, got NaN or infinity")
    T_cam_submap, K_network = decode_camera(encoding.cpu().double(), *crop.size)
    K = np.stack([_intrinsics(f, crop, K_network[i].numpy()) for i, f in enumerate(chunk.frames)])
    depth = output.depth[0].float().cpu().numpy()
    return Prediction(
        depth=np.where(depth < MAX_DEPTH, depth, 0).astype(np.float32),
        confidence=output.confidence[0].float().cpu().numpy(),
        edge_certainty=output.edge_certainty[0].float().cpu().numpy(),
        K=K,
        T_submap_cam=_poses(T_cam_submap.numpy(), chunk.reference),
        descriptors=output.descriptors[0].float().cpu().numpy(),
    )


def _intrinsics(
    frame: Frame, crop: Crop, K_network: Float[ndarray, "3 3"]
) -> Float[ndarray, "3 3"]:
    if frame.K is None:
        return K_network
    return crop.intrinsics(torch.from_numpy(frame.K), *frame.image.shape[:2]).numpy()


def _poses(T_cam_submap: Float[ndarray, "s 3 4"], reference: int) -> Float[ndarray, "s 4 4"]:
    """Camera to submap, with the predicted reference camera exactly at the origin."""
    T_cam = np.tile(np.eye(4), (len(T_cam_submap), 1, 1))
    T_cam[:, :3] = T_cam_submap
    return T_cam[reference] @ invert_pose(T_cam)


def choose_device(name: str) -> torch.device:
    """auto takes the GPU where there is one; a GPU asked for and missing is an error."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device must be auto, cpu or cuda:N, got {name}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name} was asked for, but torch finds no CUDA GPU")
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """auto: bfloat16 on a GPU that has it, float16 on older ones, float32 on a CPU."""
    known = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    if name in known:
        return known[name]
    if name != "auto":
        raise ValueError(f"precision must be auto, fp32, fp16 or bf16, got {name}")
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def _default_checkpoint(model: str) -> Path:
    if model == "nano":
        if not NANO_WEIGHTS.is_file():
            raise CheckpointError(f"the nano weights are missing: expected {NANO_WEIGHTS}")
        return NANO_WEIGHTS
    if model == "scal3r":
        raise CheckpointError(f"model scal3r needs a checkpoint: {HOW_TO_GET}")
    raise ValueError(f"model must be nano or scal3r, got {model}")


def _expected_config(model: str, depth_head: str) -> Scal3RConfig:
    size = Scal3RConfig.nano() if model == "nano" else Scal3RConfig.scal3r()
    return size.with_head(depth_head)
