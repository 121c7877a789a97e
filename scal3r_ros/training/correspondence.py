"""Which patch of the reference image shows what a patch shows: told to one head of the attention.

Poses come from correspondences, and a small network finds out about them late. A head of a global
layer is therefore shown where to look (cross-entropy of its attention weights); the network itself
stays as it is. Ours, not of the papers.
"""

from dataclasses import dataclass, field

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from scal3r_ros.network.aggregator import SPECIAL, position_tables
from scal3r_ros.network.camera_head import decode_camera
from scal3r_ros.network.layers import Attention, rotate
from scal3r_ros.network.scal3r import Scal3R
from scal3r_ros.training.samples import PATCH, ChunkSample

SAME_DEPTH = 0.05  # relative: what differs more is hidden
MIN_PATCHES = 10  # in sight of the reference; fewer teach nothing


def patch_targets(
    sample: ChunkSample,
) -> tuple[Float[Tensor, "b sn n"], Bool[Tensor, "b sn"]]:
    """Of every patch centre, how near each patch of the reference image is to where it is seen
    there (bilinear, sums to one), and whether it is seen there at all."""
    b, _, h, w = sample.depth.shape
    rows, columns = h // PATCH, w // PATCH
    T, K = decode_camera(sample.encoding, h, w)
    middle = slice(PATCH // 2, None, PATCH)
    v, u = torch.meshgrid(
        torch.arange(h, device=K.device)[middle] + 0.5,
        torch.arange(w, device=K.device)[middle] + 0.5,
        indexing="ij",
    )
    depth = rearrange(sample.depth[:, :, middle, middle], "b s r c -> b s (r c)")
    pixels = torch.stack([u, v, torch.ones_like(u)], -1).reshape(-1, 3)
    rays = torch.einsum("bsij,nj->bsni", torch.linalg.inv(K), pixels)
    in_camera = rays * depth[..., None] - T[:, :, None, :, 3]
    points = torch.einsum("bsji,bsnj->bsni", T[..., :3], in_camera)
    seen = torch.einsum("bij,bsnj->bsni", K[:, sample.reference], points)
    z = seen[..., 2].clamp_min(1e-6)
    x, y = seen[..., 0] / z, seen[..., 1] / z
    truth = sample.depth[:, sample.reference]
    inside = (x > 0) & (x < w) & (y > 0) & (y < h) & (depth > 0) & (seen[..., 2] > 0)
    nearest = truth[
        torch.arange(b, device=K.device)[:, None, None],
        y.long().clamp(0, h - 1),
        x.long().clamp(0, w - 1),
    ]
    visible = inside & ((nearest / z - 1).abs() < SAME_DEPTH)
    visible[:, sample.reference] = False
    across = _tents(x / PATCH - 0.5, columns)
    down = _tents(y / PATCH - 0.5, rows)
    weights = rearrange(down[..., :, None] * across[..., None, :], "b s n r c -> b (s n) (r c)")
    return weights, rearrange(visible, "b s n -> b (s n)")


def _tents(place: Float[Tensor, "*n"], count: int) -> Float[Tensor, "*n k"]:
    """Linear interpolation between `count` centres, the outermost held."""
    centres = torch.arange(count, device=place.device)
    return (1 - (place.clamp(0, count - 1)[..., None] - centres).abs()).clamp_min(0)


@dataclass(eq=False)
class AttentionProbe:
    """Hears what a global layer's queries and keys are, and says how wrong its first head is."""

    model: Scal3R
    layer: int
    _qkv: Tensor | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        layers = range(len(self.model.aggregator.global_blocks))
        if self.layer not in layers:
            raise ValueError(f"correspondence_layers must be in {layers}, got {self.layer}")
        self._attention.qkv.register_forward_hook(self._hear)

    @property
    def _attention(self) -> Attention:
        attention = self.model.aggregator.global_blocks[self.layer].get_submodule("attention")
        assert isinstance(attention, Attention)
        return attention

    def _hear(self, _module: nn.Module, _args: tuple, output: Tensor) -> None:
        self._qkv = output

    def loss(self, sample: ChunkSample) -> Float[Tensor, ""]:
        """Cross-entropy over all tokens of the chunk, of the chunk that passed last; nats."""
        assert self._qkv is not None, "no chunk has passed"
        targets, visible = patch_targets(sample)
        if int(visible.sum()) < MIN_PATCHES:
            return self._qkv.new_zeros(())
        s, h, w = sample.depth.shape[1:]
        attention, dim = self._attention, self.model.config.dim
        qkv = rearrange(self._qkv, "b n (three k d) -> three k b n d", three=3, k=attention.heads)
        q, k = attention.q_norm(qkv[0, 0]), attention.k_norm(qkv[1, 0])
        grid = (h // PATCH, w // PATCH)
        table = position_tables(grid, dim // attention.heads, dim, q.device).tokens
        q, k = rotate(q, table), rotate(k, table)
        queries = rearrange(q, "b (s p) d -> b s p d", s=s)[:, :, SPECIAL:].flatten(1, 2)
        logits = (queries @ k.mT) / q.shape[-1] ** 0.5
        first = sample.reference * (SPECIAL + targets.shape[-1]) + SPECIAL
        log_weight = functional.log_softmax(logits, dim=-1)[..., first : first + targets.shape[-1]]
        return -(targets * log_weight).sum(-1)[visible].mean()
