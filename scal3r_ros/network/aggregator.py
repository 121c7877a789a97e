"""Alternating attention over the frames of chunks, with the memory read at chosen layers."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from einops import rearrange
from torch import Tensor, nn

from scal3r_ros.network.devices import full_precision, half_precision
from scal3r_ros.network.encoder import Encoder
from scal3r_ros.network.layers import (
    Block,
    CoarseKeys,
    RotaryTable,
    patch_positions,
    rotary_table,
)
from scal3r_ros.network.memory import (
    AdaptiveMemoryUnit,
    FastWeights,
    GlobalContext,
    accumulate,
    gradient,
    merge_frames,
    step,
)
from scal3r_ros.network.shapes import Float

SPECIAL = 5  # camera token and four registers lead the patches of every frame


@dataclass(frozen=True, eq=False)
class MemoryPolicy:
    """How chunks share memory. The defaults are the online schedule with nothing forgotten."""

    write: bool = True  # loop bridges read without writing
    forget: float = 1.0  # lambda in G_k = lambda G_{k-1} + g_k
    window: int = 0  # only the last so many writes count; 0: all. Costs a gradient for each
    reduce: Callable[[FastWeights], FastWeights] | None = None  # sum over processes (parallel)


@dataclass(frozen=True, eq=False)
class PositionTables:
    """Positions of one frame's tokens: all of them per head, patches over the memory's channels."""

    tokens: RotaryTable
    patches: RotaryTable
    coarse: CoarseKeys | None  # what global attention looks at; None: all tokens


@lru_cache(maxsize=16)
def position_tables(
    grid: tuple[int, int], head_dim: int, dim: int, side: int, device: torch.device
) -> PositionTables:
    """Computed once per image size; `side` [patches] of the squares that global layers look at."""
    with torch.inference_mode(False):  # training may meet them later
        positions = patch_positions(*grid, special=SPECIAL, device=device)
        tokens = rotary_table(positions, head_dim)
        patches = rotary_table(positions[SPECIAL:], dim)
        if side == 1:
            return PositionTables(tokens, patches, None)
        coarse = CoarseKeys(grid, SPECIAL, side, tokens)
        middles = coarse.tokens(positions[None].float())[0]
        return PositionTables(
            tokens, patches, replace(coarse, table=rotary_table(middles, head_dim))
        )


@dataclass(eq=False)
class ChunkTokens:
    """One chunk on its way through the layers."""

    x: Float[Tensor, "b s p c"]
    taps: list[Float[Tensor, "b s p c2"]]
    overlap: int  # leading frames that the memory has counted before
    tables: PositionTables
    encoded: Float[Tensor, "b s n c"]  # the encoder's patch tokens

    camera: Float[Tensor, "b s c2"] | None = None  # camera tokens of the last tap, in fp32

    def tap(self, frame: Float[Tensor, "b s p c"]) -> None:
        """Keeps this layer for the heads, in the precision that the blocks run in."""
        both = torch.cat([frame, self.x], dim=-1)
        self.camera = both[:, :, 0].contiguous()  # a copy: no tap is kept alive by it
        self.taps.append(both.to(half_precision(both.device) or both.dtype))

    def patches(self, first: int = 0) -> Float[Tensor, "b sn c"]:
        """Patch tokens of the frames from the `first` on as they are now."""
        return merge_frames(self.x[:, first:, SPECIAL:]).float()


class Aggregator(nn.Module):
    """Encoder, then pairs of frame attention and global attention."""

    def __init__(
        self,
        encoder: Encoder,
        dim: int,
        depth: int,
        heads: int,
        memory_layers: tuple[int, ...],
        taps: tuple[int, ...],
        layer_scale: float,
        global_side: int = 1,
    ) -> None:
        super().__init__()
        self.dim, self.heads, self.taps, self.global_side = dim, heads, taps, global_side
        self.camera_token = nn.Parameter(torch.randn(1, 2, 1, dim) * 0.02)
        self.register_token = nn.Parameter(torch.randn(1, 2, 4, dim) * 0.02)
        self.encoder = encoder

        def blocks() -> nn.ModuleList:
            return nn.ModuleList(
                Block(dim, heads, normalise_qk=True, layer_scale=layer_scale) for _ in range(depth)
            )

        self.frame_blocks, self.global_blocks = blocks(), blocks()
        self.memories = nn.ModuleDict({str(i): AdaptiveMemoryUnit(dim) for i in memory_layers})

    def embed(
        self,
        patches: Float[Tensor, "b s n c"],
        grid: tuple[int, int],
        reference: int,
        overlap: int,
    ) -> ChunkTokens:
        """Special tokens before the patches; the reference frame has a bank of its own."""
        b, s = patches.shape[:2]
        special = torch.cat([self.camera_token, self.register_token], dim=2)  # 1 2 5 c
        bank = torch.ones(s, dtype=torch.long, device=patches.device)
        bank[reference] = 0
        special = special[0, bank].expand(b, -1, -1, -1).to(patches.dtype)
        tables = self.positions(grid, patches.device)
        x = torch.cat([special, patches], dim=2)
        return ChunkTokens(x, [], overlap, tables, patches)

    def positions(self, grid: tuple[int, int], device: torch.device) -> PositionTables:
        return position_tables(grid, self.dim // self.heads, self.dim, self.global_side, device)

    def forward(
        self,
        chunks: list[ChunkTokens],
        context: GlobalContext | None,
        policy: MemoryPolicy,
        *,
        with_taps: bool = True,
    ) -> GlobalContext:
        """Fills the taps of every chunk, all of which read one and the same memory.

        One chunk at a time with the context carried on is the causal schedule; all chunks of a
        sequence at once is the paper's offline schedule; a share of them with `policy.reduce`
        is the parallel one. Without memory layers the context stays empty.
        """
        context = context or GlobalContext()
        recent = context.recent or ((context.gradients,) if context else ())  # no window so far
        recent = recent[1 - policy.window :] if policy.window > 1 else ()
        own: list[FastWeights] = []
        gradients: list[FastWeights] = []
        layers = zip(self.frame_blocks, self.global_blocks, strict=True)
        for index, (frame_block, global_block) in enumerate(layers):
            frames = [self._frame_attention(frame_block, chunk) for chunk in chunks]
            for chunk in chunks:
                self._global_attention(global_block, chunk)
            if str(index) in self.memories:
                previous = _before(context, recent, len(gradients), policy)
                added, summed = _remember(self.memories[str(index)], chunks, previous, policy)
                own.append(added)
                gradients.append(summed)
            if with_taps and index in self.taps:
                for chunk, frame in zip(chunks, frames, strict=True):
                    chunk.tap(frame)
        if not policy.write or not gradients:
            return context
        recent = (*recent, tuple(own)) if policy.window else ()
        return GlobalContext(tuple(gradients), context.chunks + len(chunks), recent)

    def _frame_attention(self, block: nn.Module, chunk: ChunkTokens) -> Tensor:
        x = block(rearrange(chunk.x, "b s p c -> (b s) p c"), chunk.tables.tokens)
        chunk.x = rearrange(x, "(b s) p c -> b s p c", b=len(chunk.x))
        return chunk.x

    def _global_attention(self, block: nn.Module, chunk: ChunkTokens) -> None:
        x = block(merge_frames(chunk.x), chunk.tables.tokens, chunk.tables.coarse)
        chunk.x = rearrange(x, "b (s p) c -> b s p c", s=chunk.x.shape[1])


def _before(
    context: GlobalContext,
    recent: tuple[tuple[FastWeights, ...], ...],
    layer: int,
    policy: MemoryPolicy,
) -> FastWeights | None:
    """What is in a memory layer before these chunks write."""
    if not (policy.write and policy.window):
        return context.gradients[layer] if context else None
    previous = None
    for chunk in recent:
        previous = accumulate(previous, [chunk[layer]], policy.forget)
    return previous


def _remember(
    unit: nn.Module,
    chunks: list[ChunkTokens],
    previous: FastWeights | None,
    policy: MemoryPolicy,
) -> tuple[FastWeights, FastWeights]:
    """Adds the chunks' gradients to the memory, in fp32, and lets every chunk read the result.

    Returns the gradient of these chunks and the new sum. Special tokens take no part.
    """
    assert isinstance(unit, AdaptiveMemoryUnit)
    device = chunks[0].x.device
    with full_precision(device):
        weights = unit.weights
        own = summed = previous
        if policy.write or previous is None:
            own = accumulate(None, (_written(unit, weights, chunk) for chunk in chunks), 1.0)
            own = policy.reduce(own) if policy.reduce else own
            summed = accumulate(previous, [own], policy.forget)
        assert own is not None and summed is not None
        updated = step(weights, summed)
    with nullcontext() if device.type == "cpu" else full_precision(device):  # a GPU has TF32
        for chunk in chunks:
            residual = unit.read(updated, unit.queries(chunk.patches(), chunk.tables.patches))
            residual = rearrange(residual, "b (s n) c -> b s n c", s=chunk.x.shape[1])
            padded = torch.nn.functional.pad(residual, (0, 0, SPECIAL, 0))
            chunk.x = chunk.x + padded.to(chunk.x.dtype)
    return own, summed


def _written(unit: AdaptiveMemoryUnit, weights: FastWeights, chunk: ChunkTokens) -> FastWeights:
    """Frames that an earlier chunk has written are not written again."""
    return gradient(weights, unit.tokens(chunk.patches(chunk.overlap), chunk.tables.patches))
