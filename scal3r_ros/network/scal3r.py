"""Scal3R: chunks of images and a memory in, cameras, depth and a memory out. Read this first.

Scal3R (arXiv 2604.08542) is a VGGT backbone whose global layers carry a test-time-trained memory;
the depth head is the official DPT or a mixture of experts (MoE3D). One class, several sizes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor, nn

from scal3r_ros.network.aggregator import SPECIAL, Aggregator, ChunkTokens, MemoryPolicy
from scal3r_ros.network.camera_head import CameraHead
from scal3r_ros.network.dense_head import (
    DenseHead,
    DenseTrunk,
    a_few,
    activate_depth,
    activate_points,
)
from scal3r_ros.network.descriptor import place_descriptor
from scal3r_ros.network.devices import full_precision, matmul_precision
from scal3r_ros.network.encoder import Encoder
from scal3r_ros.network.memory import GlobalContext
from scal3r_ros.network.moe_head import Mixture, MoeHead, from_dense
from scal3r_ros.network.shapes import Float

COMPILE = ("off", "on")


@dataclass(frozen=True)
class Scal3RConfig:
    """Sizes of the network. `scal3r()` is the published architecture, `nano()` ours."""

    dim: int = 1024
    heads: int = 16
    encoder_depth: int = 24
    encoder_dim: int = 1024
    depth: int = 24
    patch: int = 14
    position_grid: int = 37
    global_side: int = 1  # of the squares of patches that global attention looks at; 1: patches
    memory_layers: tuple[int, ...] = (14, 17, 20, 23)
    taps: tuple[int, int, int, int] = (4, 11, 17, 23)
    camera_depth: int = 4
    camera_heads: int = 16
    head_features: int = 256
    head_channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    head_hidden: int = 32
    point_head: bool = True
    depth_head: str = "dpt"  # dpt or moe
    moe_design: str = "C"
    moe_experts: int = 4
    moe_temperature: float = 1.0
    decoding: str = "pick"
    layer_scale: float = 0.01
    image_width: int = 518

    @classmethod
    def scal3r(cls) -> "Scal3RConfig":
        return cls()

    @classmethod
    def nano(cls) -> "Scal3RConfig":
        return cls(
            dim=192,
            heads=6,
            encoder_depth=4,
            encoder_dim=192,
            depth=4,
            position_grid=16,
            memory_layers=(1, 3),
            taps=(0, 1, 2, 3),
            camera_depth=2,
            camera_heads=6,
            head_features=64,
            head_channels=(48, 64, 96, 128),
            head_hidden=24,
            point_head=False,
            depth_head="moe",
            moe_design="Z",
            layer_scale=0.5,
            image_width=168,
        )

    def with_head(self, depth_head: str, design: str | None = None) -> "Scal3RConfig":
        return replace(self, depth_head=depth_head, moe_design=design or self.moe_design)


@dataclass(frozen=True, eq=False)
class ChunkImages:
    """Frames of one chunk, chronological, and which of them is the submap's origin."""

    images: Float[Tensor, "b s 3 h w"]  # RGB in 0..1; h and w multiples of the patch size
    reference: int
    overlap: int = 0  # leading frames that an earlier chunk has already given to the memory
    patches: Float[Tensor, "b s n c"] | None = None  # encoder output kept from an earlier pass


@dataclass(frozen=True, eq=False)
class ChunkOutput:
    """All lengths in submap units: the mean distance of a chunk's points is about one."""

    encodings: list[Float[Tensor, "b s 9"]]  # camera head, round by round
    depth: Float[Tensor, "b s h w"]
    confidence: Float[Tensor, "b s h w"]  # >= 1
    edge_certainty: Float[Tensor, "b s h w"]  # 1 with a single head
    descriptors: Float[Tensor, "b s d"]
    patches: Float[Tensor, "b s n c"]  # encoder output, to be kept for overlap frames
    mixture: Mixture | None  # of the b s frames flattened; None with a single head
    points: Float[Tensor, "b s h w 3"] | None = None
    points_confidence: Float[Tensor, "b s h w"] | None = None


class Scal3R(nn.Module):
    def __init__(self, config: Scal3RConfig) -> None:
        super().__init__()
        self.config = config
        encoder = Encoder(
            config.encoder_dim,
            config.encoder_depth,
            config.encoder_dim * config.heads // config.dim,
            config.patch,
            config.position_grid,
            config.layer_scale,
        )
        self.aggregator = Aggregator(
            encoder,
            config.dim,
            config.depth,
            config.heads,
            config.memory_layers,
            config.taps,
            config.layer_scale,
            config.global_side,
        )
        wide = 2 * config.dim
        self.camera_head = CameraHead(wide, config.camera_depth, config.camera_heads)
        features, hidden = config.head_features, config.head_hidden

        def trunk() -> DenseTrunk:
            return DenseTrunk(wide, features, config.head_channels)

        self.depth_head = (
            MoeHead(
                trunk(),
                features,
                hidden=hidden,
                design=config.moe_design,
                experts=config.moe_experts,
                temperature=config.moe_temperature,
            )
            if config.depth_head == "moe"
            else DenseHead(trunk(), features, out=2, hidden=hidden)
        )
        self.point_head = (
            DenseHead(trunk(), features, out=4, hidden=hidden) if config.point_head else None
        )

    def forward(
        self,
        chunks: list[ChunkImages],
        context: GlobalContext | None = None,
        policy: MemoryPolicy | None = None,
        *,
        with_points: bool = False,
    ) -> tuple[list[ChunkOutput], GlobalContext]:
        """Chunks that share one memory update: one when online, the whole sequence offline."""
        tokens = [self._tokens(chunk) for chunk in chunks]
        updated: GlobalContext = self.aggregator(tokens, context, policy or MemoryPolicy())
        outputs = [
            self._heads(chunk, token, with_points)
            for chunk, token in zip(chunks, tokens, strict=True)
        ]
        return outputs, updated

    def remember(
        self, chunks: list[ChunkImages], policy: MemoryPolicy | None = None
    ) -> GlobalContext:
        """The memory of a whole sequence (`offline`), without running the heads."""
        tokens = [self._tokens(chunk) for chunk in chunks]
        context: GlobalContext = self.aggregator(
            tokens, None, policy or MemoryPolicy(), with_taps=False
        )
        return context

    def replace_depth_head(self, design: str, experts: int, jitter: float = 0.0) -> None:
        """A mixture in place of the single depth head: equal depth before any training, and
        confidence within the bounds of a mixture's scales. To be trained, its experts need a
        `jitter`: equal ones get equal gradients for ever."""
        if not isinstance(self.depth_head, DenseHead):
            raise ValueError("the depth head is a mixture already")
        self.depth_head = from_dense(self.depth_head, design=design, experts=experts, jitter=jitter)
        self.config = replace(self.config, depth_head="moe", moe_design=design, moe_experts=experts)

    def look_at_squares(self, side: int) -> "Scal3R":
        """Global attention to squares of so many patches a side instead of patches (of 2: to a
        quarter as many keys), whatever the weights were trained with."""
        self.aggregator.global_side = side
        self.config = replace(self.config, global_side=side)
        return self

    def store_blocks(self, dtype: torch.dtype) -> "Scal3R":
        """Matrices of the transformer blocks in half precision: half the memory, and the same
        numbers as autocast, which rounds them in every pass. Norms, memory and heads stay."""
        for block in self._blocks():
            for module in block.modules():
                if isinstance(module, nn.Linear):
                    module.to(dtype)
        return self

    def compile_blocks(self, mode: str) -> "Scal3R":
        """torch.compile for the blocks, where the time goes: off or on. No CUDA graphs: blocks take
        long, and a graph's output is overwritten while the next block reads it."""
        if mode not in COMPILE:
            raise ValueError(f"compile must be one of {COMPILE}, got {mode}")
        for block in self._blocks():
            block._compiled_call_impl = None
            if mode == "on":
                block.compile()
        return self

    def _blocks(self) -> Iterator[nn.Module]:
        aggregator = self.aggregator
        yield from aggregator.encoder.blocks
        yield from aggregator.frame_blocks
        yield from aggregator.global_blocks

    def encode(self, images: Float[Tensor, "b s 3 h w"]) -> Float[Tensor, "b s n c"]:
        """Patch tokens of each frame: independent of its neighbours, worth keeping."""
        flat = self.aggregator.encoder(rearrange(images, "b s c h w -> (b s) c h w"))
        return rearrange(flat, "(b s) n c -> b s n c", b=images.shape[0])

    def _tokens(self, chunk: ChunkImages) -> ChunkTokens:
        height, width = chunk.images.shape[-2:]
        patch = self.config.patch
        if height % patch or width % patch:
            raise ValueError(f"image size must be a multiple of {patch}, got {height} x {width}")
        patches = self.encode(chunk.images) if chunk.patches is None else chunk.patches
        grid = (height // patch, width // patch)
        return self.aggregator.embed(patches, grid, chunk.reference, chunk.overlap)

    def _heads(self, chunk: ChunkImages, tokens: ChunkTokens, with_points: bool) -> ChunkOutput:
        b, s = chunk.images.shape[:2]
        with full_precision(chunk.images.device):
            with matmul_precision("highest"):  # small, and every pose comes out of it
                assert tokens.camera is not None  # of the last tap
                encodings = self.camera_head(tokens.camera.float())
            taps = [rearrange(tap[:, :, SPECIAL:], "b s n c -> (b s) n c") for tap in tokens.taps]
            images = rearrange(chunk.images, "b s c h w -> (b s) c h w").float()
            depth, confidence, certainty, mixture = self._depth(taps, images)
            points, points_confidence = self._points(taps, images, with_points)
        split = {"b": b, "s": s}
        return ChunkOutput(
            encodings=encodings,
            depth=rearrange(depth, "(b s) h w -> b s h w", **split),
            confidence=rearrange(confidence, "(b s) h w -> b s h w", **split),
            edge_certainty=rearrange(certainty, "(b s) h w -> b s h w", **split),
            descriptors=place_descriptor(tokens.encoded),
            patches=tokens.encoded,
            mixture=mixture,
            points=None if points is None else points.unflatten(0, (b, s)),
            points_confidence=None if points is None else points_confidence.unflatten(0, (b, s)),
        )

    def _depth(
        self, taps: list[Float[Tensor, "f n c"]], images: Float[Tensor, "f 3 h w"]
    ) -> tuple[Tensor, Tensor, Tensor, Mixture | None]:
        if isinstance(self.depth_head, MoeHead):
            parts = [self.depth_head(*group, self.config.patch) for group in a_few(taps, images)]
            mixture = Mixture(
                torch.cat([p.log_depth for p in parts]),
                torch.cat([p.log_scale for p in parts]),
                torch.cat([p.log_weight for p in parts]),
            )
            depth = mixture.decode(self.config.decoding)
            return depth, mixture.confidence(), mixture.certainty(), mixture
        raw = self._dense(self.depth_head, taps, images)
        depth, confidence = activate_depth(raw)
        return depth, confidence, torch.ones_like(depth), None

    def _points(
        self, taps: list[Tensor], images: Tensor, wanted: bool
    ) -> tuple[Tensor, Tensor] | tuple[None, None]:
        if not wanted:
            return None, None
        if self.point_head is None:
            raise ValueError("this network has no point head")
        return activate_points(self._dense(self.point_head, taps, images))

    def _dense(self, head: DenseHead, taps: list[Tensor], images: Tensor) -> Tensor:
        return torch.cat([head(*group, self.config.patch) for group in a_few(taps, images)])
