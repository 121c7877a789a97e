"""The Global Context Memory: fast weights rewritten at test time (Scal3R, section 3).

At every memory layer a SwiGLU with weights W maps keys to values. Each chunk gives the gradient of
the self-supervised inner loss -sum f_W(k) . v at the *initial* weights; gradients of chunks add,
and one orthogonalised step turns their sum into the weights that are read. Memory is a value:
`GlobalContext` goes in and comes out, no module holds it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from scal3r_ros.network.devices import matmul_precision
from scal3r_ros.network.layers import RotaryTable, rotate
from scal3r_ros.network.shapes import Float

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Muon's quintic
KEY_EPS = 1.1920929e-07  # float32 epsilon, as the official RMSNorm's default
LEARNING_RATE_SHIFT = -4.600166  # softplus^-1(0.01)
ROWS = 8192  # tokens at a time: the hidden layer of a whole chunk would be gigabytes


@dataclass(frozen=True, eq=False)
class FastWeights:
    """Weights of one memory, or a gradient of them: f(x) = (silu(x gate) * (x up)) down."""

    gate: Float[Tensor, "b c m"]
    up: Float[Tensor, "b c m"]
    down: Float[Tensor, "b m c"]

    def map(self, function: Callable[..., Tensor], *others: "FastWeights") -> "FastWeights":
        """Apply a function matrix by matrix."""
        return FastWeights(
            *(function(*(getattr(w, f.name) for w in (self, *others))) for f in fields(self))
        )

    def __call__(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        rows = (
            (functional.silu(part @ self.gate) * (part @ self.up)) @ self.down
            for part in x.split(ROWS, dim=1)
        )
        return torch.cat(list(rows), dim=1)


@dataclass(frozen=True, eq=False)
class GlobalContext:
    """Summed gradient of every memory layer, and how many chunks are in it. Constant in size."""

    gradients: tuple[FastWeights, ...] = ()
    chunks: int = 0
    recent: tuple[tuple[FastWeights, ...], ...] = ()  # chunk by chunk, where there is a window

    def __bool__(self) -> bool:
        return self.chunks > 0

    def detach(self) -> "GlobalContext":
        def cut(layers: tuple[FastWeights, ...]) -> tuple[FastWeights, ...]:
            return tuple(g.map(Tensor.detach) for g in layers)

        return GlobalContext(cut(self.gradients), self.chunks, tuple(map(cut, self.recent)))


@dataclass(frozen=True, eq=False)
class MemoryTokens:
    """What a chunk writes into one memory layer: keys, values, token learning rates."""

    k: Float[Tensor, "b n c"]
    v: Float[Tensor, "b n c"]
    rate: Float[Tensor, "b n 3"]  # of gate, down, up: the checkpoint's order


def gradient(weights: FastWeights, tokens: MemoryTokens) -> FastWeights:
    """Descent direction of -sum f_W(k) . v at `weights`, token-weighted, in closed form."""
    parts = zip(*(t.split(ROWS, dim=1) for t in (tokens.k, tokens.v, tokens.rate)), strict=True)
    return accumulate(None, (_gradient(weights, *part) for part in parts), 1.0)


def _gradient(weights: FastWeights, k: Tensor, v: Tensor, rate: Tensor) -> FastWeights:
    rate_gate, rate_down, rate_up = rate.split(1, dim=-1)
    g, u = k @ weights.gate, k @ weights.up
    d = v @ weights.down.mT
    sigma = torch.sigmoid(g)
    silu = g * sigma
    return FastWeights(
        gate=(rate_gate * k).mT @ (d * u * sigma * (1 + g * (1 - sigma))),
        up=(rate_up * k).mT @ (d * silu),
        down=(rate_down * silu * u).mT @ v,
    )


def accumulate(
    previous: FastWeights | None, gradients: Iterable[FastWeights], forget: float
) -> FastWeights:
    """G_k = forget G_{k-1} + sum of the new gradients, which are held one at a time."""
    total = None
    for other in gradients:
        total = other if total is None else total.map(torch.add, other)
    if total is None:
        raise ValueError("there is no gradient to accumulate")
    return total if previous is None else previous.map(lambda p, g: forget * p + g, total)


def orthogonalise(
    g: Float[Tensor, "b m n"], dtype: torch.dtype = torch.float32, steps: int = 5
) -> Float[Tensor, "b m n"]:
    """Newton-Schulz: singular values go towards one. Rounding is amplified 485 times (3.4445^5), so
    float32 in full is our default (the official program takes bf16), whatever the rest runs in."""
    tall = g.shape[-2] > g.shape[-1]
    x = (g.mT if tall else g).to(dtype)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = NEWTON_SCHULZ
    with matmul_precision("highest"):
        for _ in range(steps):
            gram = x @ x.mT
            x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(g.dtype)


def step(
    weights: FastWeights, summed: FastWeights, dtype: torch.dtype = torch.float32
) -> FastWeights:
    """One orthogonalised step from `weights`; the norm of every output unit is kept."""

    def move(w: Tensor, g: Tensor) -> Tensor:
        moved = w + orthogonalise(g, dtype)
        norm = w.norm(dim=-2, keepdim=True)
        return moved / (moved.norm(dim=-2, keepdim=True) + 1e-5) * norm

    return weights.map(move, summed)


class AdaptiveMemoryUnit(nn.Module):
    """One memory layer: projects patch tokens, reads fast weights, adds a gated residual."""

    def __init__(self, dim: int, expansion: int = 4) -> None:
        super().__init__()
        hidden = expansion * dim
        self.gate = nn.Parameter(torch.randn(1, dim, hidden) / dim**0.5)
        self.down = nn.Parameter(torch.randn(1, hidden, dim) / hidden**0.5)
        self.up = nn.Parameter(torch.randn(1, dim, hidden) / dim**0.5)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm = nn.RMSNorm(dim, eps=KEY_EPS)
        self.k_norm = nn.RMSNorm(dim, eps=KEY_EPS)
        self.o_norm = nn.RMSNorm(dim, eps=1e-5)
        self.modulation = nn.Linear(dim, 3 * dim)
        self.rates = nn.Linear(dim, 3)
        nn.init.normal_(self.modulation.weight, std=0.01)
        nn.init.zeros_(self.modulation.bias)
        nn.init.constant_(self.modulation.bias[2 * dim :], 0.1)

    @property
    def weights(self) -> FastWeights:
        """The slow weights W0, where every gradient is taken."""
        return FastWeights(self.gate.float(), self.up.float(), self.down.float())

    def tokens(self, x: Float[Tensor, "b n c"], table: RotaryTable) -> MemoryTokens:
        """What is written."""
        weight, bias = self.qkv.weight, self.qkv.bias
        dim = x.shape[-1]
        k, v = functional.linear(x, weight[dim:], bias[dim:]).chunk(2, dim=-1)
        rate = functional.softplus(self.rates(x) + LEARNING_RATE_SHIFT)
        return MemoryTokens(rotate(self.k_norm(k), table), v, rate)

    def queries(self, x: Float[Tensor, "b n c"], table: RotaryTable) -> Float[Tensor, "b n c"]:
        """What is asked of the memory."""
        dim = x.shape[-1]
        q = functional.linear(x, self.qkv.weight[:dim], self.qkv.bias[:dim])
        return rotate(self.q_norm(q.to(self.q_norm.weight.dtype)), table)

    def read(self, weights: FastWeights, q: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """The residual that patch tokens receive."""
        out = self.o_norm(weights(q).to(self.o_norm.weight.dtype))
        shift, scale, gate = self.modulation(out).chunk(3, dim=-1)
        normed = functional.layer_norm(out, out.shape[-1:], eps=1e-6)
        return gate * (normed * (1 + scale) + shift)


def merge_frames(x: Float[Tensor, "b s n c"]) -> Float[Tensor, "b sn c"]:
    return rearrange(x, "b s n c -> b (s n) c")
