"""Transformer blocks with 2-D rotary positions, shared by encoder, aggregator and camera head."""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from scal3r_ros.network.shapes import Float, Int


@dataclass(frozen=True, eq=False)
class RotaryTable:
    """cos and sin of the angles of one frame's tokens: the same for every frame, there is no
    temporal encoding."""

    cos: Float[Tensor, "n plane quarter"]
    sin: Float[Tensor, "n plane quarter"]


def patch_positions(rows: int, columns: int, special: int, device=None) -> Int[Tensor, "n 2"]:
    """(row, column) of every token: (0, 0) for special tokens, patches count from 1."""
    grid = torch.cartesian_prod(
        torch.arange(1, rows + 1, device=device), torch.arange(1, columns + 1, device=device)
    )
    return torch.cat([torch.zeros(special, 2, dtype=grid.dtype, device=device), grid])


def rotary_table(
    positions: Int[Tensor, "n 2"] | Float[Tensor, "n 2"], dim: int, base: float = 100.0
) -> RotaryTable:
    """The first half of the channels turns with the row, the second with the column."""
    half = dim // 2
    exponents = torch.arange(0, half, 2, device=positions.device, dtype=torch.float32) / half
    angles = positions[:, :, None].float() * base**-exponents
    return RotaryTable(angles.cos(), angles.sin())


def rotate(
    x: Float[Tensor, "*batch tokens d"], table: RotaryTable
) -> Float[Tensor, "*batch tokens d"]:
    """Rotary embedding within each axis' half of the channels ("rotate half"); x holds the tokens
    of one frame or of several, one after another. In float32, or more, as the table is."""
    frames = x.unflatten(-2, (-1, table.cos.shape[0]))
    first, second = frames.unflatten(-1, (2, 2, -1)).unbind(-2)
    cos, sin = table.cos, table.sin
    turned = torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-2)
    return turned.reshape(x.shape)


@dataclass(frozen=True, eq=False)
class CoarseKeys:
    """Attention to squares of patches instead of patches: each is the mean of its tokens, which
    costs a quarter for squares of 2 x 2. Special tokens stay."""

    grid: tuple[int, int]  # patches of a frame
    special: int  # tokens that lead the patches
    side: int
    table: RotaryTable  # of the special tokens and the squares

    def tokens(self, x: Float[Tensor, "b sp c"]) -> Float[Tensor, "b sq c"]:
        """Of every frame the special tokens and the means."""
        rows, columns = self.grid
        frames = rearrange(x, "b (s p) c -> b s p c", p=self.special + rows * columns)
        patches = rearrange(frames[:, :, self.special :], "b s (h w) c -> (b s) c h w", h=rows)
        means = squares(patches, self.side)
        means = rearrange(means, "(b s) c h w -> b s (h w) c", b=len(x))
        return torch.cat([frames[:, :, : self.special], means], dim=2).flatten(1, 2)


def squares(x: Float[Tensor, "f c h w"], side: int) -> Float[Tensor, "f c h2 w2"]:
    """Means of squares of a grid; those at its end may be smaller."""
    return functional.avg_pool2d(x, side, ceil_mode=True, count_include_pad=False)


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
        self,
        x: Float[Tensor, "b n c"],
        table: RotaryTable | None,
        coarse: CoarseKeys | None = None,
    ) -> Float[Tensor, "b n c"]:
        q, k, v = self.project(x, table, coarse)
        out = functional.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v)
        return self.proj(rearrange(out, "b heads n d -> b n (heads d)"))

    def project(
        self, x: Float[Tensor, "b n c"], table: RotaryTable | None, coarse: CoarseKeys | None
    ) -> tuple[
        Float[Tensor, "b heads n d"], Float[Tensor, "b heads m d"], Float[Tensor, "b heads m d"]
    ]:
        """Queries, keys and values."""
        if coarse is None:
            parts = self.qkv(x).chunk(3, dim=-1)
        else:
            dim, weight, bias = x.shape[-1], self.qkv.weight, self.qkv.bias
            seen = functional.linear(coarse.tokens(x), weight[dim:], bias[dim:])
            asked = functional.linear(x, weight[:dim], bias[:dim])
            parts = (asked, *seen.chunk(2, dim=-1))
        q, k, v = (rearrange(part, "b n (k d) -> b k n d", k=self.heads) for part in parts)
        q, k = self.q_norm(q), self.k_norm(k)
        if table is None:
            return q, k, v
        return rotate(q, table), rotate(k, table if coarse is None else coarse.table), v


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
        self,
        x: Float[Tensor, "b n c"],
        table: RotaryTable | None = None,
        coarse: CoarseKeys | None = None,
    ) -> Float[Tensor, "b n c"]:
        x = x + self.scale1(self.attention(self.norm1(x), table, coarse))
        return x + self.scale2(self.mlp(self.norm2(x)))
