"""Alternating attention over the frames of chunks, with the memory read at chosen layers."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from scal3r_ros.network.encoder import Encoder
from scal3r_ros.network.layers import Block, RotaryTable, patch_positions, rotary_table
from scal3r_ros.network.memory import (
    AdaptiveMemoryUnit,
    FastWeights,
    GlobalContext,
    MemoryTokens,
    accumulate,
    gradient,
    merge_frames,
    step,
)

SPECIAL = 5  # camera token and four registers lead the patches of every frame


@dataclass(frozen=True, eq=False)
class MemoryPolicy:
    """How chunks share memory. The defaults are the online schedule with nothing forgotten."""

    write: bool = True  # loop bridges read without writing
    forget: float = 1.0  # lambda in G_k = lambda G_{k-1} + g_k
    reduce: Callable[[FastWeights], FastWeights] | None = None  # sum over processes (parallel)


@dataclass(eq=False)
class ChunkTokens:
    """One chunk on its way through the layers."""

    x: Float[Tensor, "b s p c"]
    taps: list[Float[Tensor, "b s p c2"]]
    fresh: Float[Tensor, "b all 1"] | None  # 0 for patch tokens of frames counted before
    sequence: RotaryTable  # positions of all tokens of the chunk
    patches: RotaryTable  # positions of all patch tokens, over the memory's channels
    encoded: Float[Tensor, "b s n c"]  # the encoder's patch tokens


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
    ) -> None:
        super().__init__()
        self.dim, self.heads, self.taps = dim, heads, taps
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
        fresh = None
        if overlap > 0:
            fresh = torch.ones(b, s, patches.shape[2], 1, device=patches.device)
            fresh[:, :overlap] = 0
            fresh = merge_frames(fresh)
        positions = patch_positions(*grid, special=SPECIAL, device=patches.device)
        head = rotary_table(positions, self.dim // self.heads).repeat(s)
        memory = rotary_table(positions[SPECIAL:], self.dim).repeat(s)
        x = torch.cat([special, patches], dim=2)
        return ChunkTokens(x, [], fresh, head, memory, patches)

    def forward(
        self,
        chunks: list[ChunkTokens],
        context: GlobalContext | None,
        policy: MemoryPolicy,
    ) -> GlobalContext:
        """Fills the taps of every chunk, all of which read one and the same memory.

        One chunk at a time with the context carried on is the causal schedule; all chunks of a
        sequence at once is the paper's offline schedule; a share of them with `policy.reduce`
        is the parallel one. Without memory layers the context stays empty.
        """
        gradients: list[FastWeights] = []
        layers = zip(self.frame_blocks, self.global_blocks, strict=True)
        for index, (frame_block, global_block) in enumerate(layers):
            frames = [self._frame_attention(frame_block, chunk) for chunk in chunks]
            for chunk in chunks:
                self._global_attention(global_block, chunk)
            if str(index) in self.memories:
                unit = self.memories[str(index)]
                previous = context.gradients[len(gradients)] if context else None
                gradients.append(_remember(unit, chunks, previous, policy))
            if index in self.taps:
                for chunk, frame in zip(chunks, frames, strict=True):
                    chunk.taps.append(torch.cat([frame, chunk.x], dim=-1))
        if not policy.write:
            return context or GlobalContext()
        seen = context.chunks if context else 0
        return GlobalContext(tuple(gradients), seen + len(chunks)) if gradients else GlobalContext()

    def _frame_attention(self, block: nn.Module, chunk: ChunkTokens) -> Tensor:
        b, s, p = chunk.x.shape[:3]
        table = RotaryTable(chunk.sequence.cos[:p], chunk.sequence.sin[:p])
        x = block(rearrange(chunk.x, "b s p c -> (b s) p c"), table)
        chunk.x = rearrange(x, "(b s) p c -> b s p c", b=b, s=s)
        return chunk.x

    def _global_attention(self, block: nn.Module, chunk: ChunkTokens) -> None:
        x = block(merge_frames(chunk.x), chunk.sequence)
        chunk.x = rearrange(x, "b (s p) c -> b s p c", s=chunk.x.shape[1])


def _remember(
    unit: nn.Module,
    chunks: list[ChunkTokens],
    previous: FastWeights | None,
    policy: MemoryPolicy,
) -> FastWeights:
    """Adds the chunks' gradients to the memory and lets every chunk read the result, in fp32.

    Returns the new summed gradient. Special tokens take no part.
    """
    assert isinstance(unit, AdaptiveMemoryUnit)
    device = chunks[0].x.device.type
    with torch.autocast(device, enabled=False):
        weights = unit.weights
        tokens: list[MemoryTokens] = [
            unit.tokens(merge_frames(c.x[:, :, SPECIAL:]).float(), c.patches, c.fresh)
            for c in chunks
        ]
        if policy.write or previous is None:
            own = [gradient(weights, t) for t in tokens]
            total = accumulate(None, own, 1.0)
            total = policy.reduce(total) if policy.reduce else total
            summed = total if previous is None else accumulate(previous, [total], policy.forget)
        else:
            summed = previous
        updated = step(weights, summed)
        for chunk, token in zip(chunks, tokens, strict=True):
            residual = unit.read(updated, token.q)
            residual = rearrange(residual, "b (s n) c -> b s n c", s=chunk.x.shape[1])
            padded = torch.nn.functional.pad(residual, (0, 0, SPECIAL, 0))
            chunk.x = chunk.x + padded.to(chunk.x.dtype)
    return summed
