"""Transformer blocks with 2-D rotary positions, shared by encoder, aggregator and camera head."""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, eq=False)
class RotaryTable:
    """cos and sin of every token's angles: computed once per image size."""

    cos: Float[Tensor, "n d"]
    sin: Float[Tensor, "n d"]

    def repeat(self, times: int) -> "RotaryTable":
        """The same positions for every frame of a chunk: no temporal encoding."""
        return RotaryTable(self.cos.repeat(times, 1), self.sin.repeat(times, 1))


def patch_positions(rows: int, columns: int, special: int, device=None) -> Int[Tensor, "n 2"]:
    """(row, column) of every token: (0, 0) for special tokens, patches count from 1."""
    grid = torch.cartesian_prod(
        torch.arange(1, rows + 1, device=device), torch.arange(1, columns + 1, device=device)
    )
    return torch.cat([torch.zeros(special, 2, dtype=grid.dtype, device=device), grid])


def rotary_table(positions: Int[Tensor, "n 2"], dim: int, base: float = 100.0) -> RotaryTable:
    """The first half of the channels turns with the row, the second with the column."""
    half = dim // 2
    exponents = torch.arange(0, half, 2, device=positions.device, dtype=torch.float32) / half
    angles = positions[:, :, None].float() * base**-exponents  # n 2 half/2
    angles = rearrange(torch.cat([angles, angles], dim=-1), "n plane h -> n (plane h)")
    return RotaryTable(angles.cos(), angles.sin())


def rotate(x: Float[Tensor, "*batch n d"], table: RotaryTable) -> Float[Tensor, "*batch n d"]:
    """Rotary embedding within each axis' half of the channels ("rotate half")."""
    first, second = rearrange(x, "... n (plane two h) -> two ... n plane h", plane=2, two=2)
    turned = rearrange(
        torch.stack([-second, first]), "two ... n plane h -> ... n (plane two h)", two=2
    )
    return x * table.cos.to(x.dtype) + turned * table.sin.to(x.dtype)


class Attention(nn.Module):
    """Multi-head self-attention; q and k are normalised per head where `normalise_qk`."""

    def __init__(self, dim: int, heads: int, normalise_qk: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm = nn.LayerNorm(dim // heads) if normalise_qk else nn.Identity()
        self.k_norm = nn.LayerNorm(dim // heads) if normalise_qk else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def forward(
        self, x: Float[Tensor, "b n c"], table: RotaryTable | None
    ) -> Float[Tensor, "b n c"]:
        q, k, v = rearrange(
            self.qkv(x), "b n (three heads d) -> three b heads n d", three=3, heads=self.heads
        )
        q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        if table is not None:
            q, k = rotate(q, table), rotate(k, table)
        out = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(rearrange(out, "b heads n d -> b n (heads d)"))


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int, out: int | None = None) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, out or dim)

    def forward(self, x: Float[Tensor, "*batch c"]) -> Float[Tensor, "*batch d"]:
        return self.fc2(functional.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    def __init__(self, dim: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), initial))

    def forward(self, x: Float[Tensor, "*batch c"]) -> Float[Tensor, "*batch c"]:
        return x * self.gamma


class Block(nn.Module):
    """x += scale1 attention(norm1 x); x += scale2 mlp(norm2 x)."""

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        normalise_qk: bool = False,
        eps: float = 1e-5,
        layer_scale: float = 0.01,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attention = Attention(dim, heads, normalise_qk)
        self.scale1 = LayerScale(dim, layer_scale)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, 4 * dim)
        self.scale2 = LayerScale(dim, layer_scale)

    def forward(
        self, x: Float[Tensor, "b n c"], table: RotaryTable | None = None
    ) -> Float[Tensor, "b n c"]:
        x = x + self.scale1(self.attention(self.norm1(x), table))
        return x + self.scale2(self.mlp(self.norm2(x)))
