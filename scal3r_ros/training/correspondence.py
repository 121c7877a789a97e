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

from scal3r_ros.network.aggregator import SPECIAL
from scal3r_ros.network.camera_head import decode_camera
from scal3r_ros.network.devices import full_precision
from scal3r_ros.network.layers import Attention
from scal3r_ros.network.scal3r import Scal3R
from scal3r_ros.training.losses import mean_over
from scal3r_ros.training.samples import PATCH, ChunkSample

SAME_DEPTH = 0.05  # relative: what differs more is hidden


def patch_targets(
    sample: ChunkSample, side: int = 1
) -> tuple[Float[Tensor, "b sn n"], Bool[Tensor, "b sn"]]:
    """Of every patch centre, how near each patch of the reference image (or square of `side`
    patches) is to where it is seen there (bilinear, sums to one), and whether it is seen at all."""
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
    across = _tents(x / (PATCH * side) - 0.5, -(-columns // side))
    down = _tents(y / (PATCH * side) - 0.5, -(-rows // side))
    weights = rearrange(down[..., :, None] * across[..., None, :], "b s n r c -> b (s n) (r c)")
    return weights, rearrange(visible, "b s n -> b (s n)")


def _tents(place: Float[Tensor, "*n"], count: int) -> Float[Tensor, "*n k"]:
    """Linear interpolation between `count` centres, the outermost held."""
    centres = torch.arange(count, device=place.device)
    return (1 - (place.clamp(0, count - 1)[..., None] - centres).abs()).clamp_min(0)


@dataclass(eq=False)
class AttentionProbe:
    """Hears what a global layer's attention is given, and says how wrong its first head is."""

    model: Scal3R
    layer: int
    _heard: tuple | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        layers = range(len(self.model.aggregator.global_blocks))
        if self.layer not in layers:
            raise ValueError(f"correspondence_layers must be in {layers}, got {self.layer}")
        self._attention.register_forward_pre_hook(self._hear)

    @property
    def _attention(self) -> Attention:
        attention = self.model.aggregator.global_blocks[self.layer].get_submodule("attention")
        assert isinstance(attention, Attention)
        return attention

    def _hear(self, _module: nn.Module, args: tuple) -> None:
        self._heard = args

    def loss(self, sample: ChunkSample) -> Float[Tensor, ""]:
        """Cross-entropy over all that is looked at in the chunk that passed last; nats."""
        assert self._heard is not None, "no chunk has passed"
        with full_precision(sample.depth.device):  # halves would move places by a pixel
            targets, visible = patch_targets(sample, self.model.config.global_side)
        q, k, _ = self._attention.project(*self._heard)
        queries = rearrange(q[:, 0], "b (s p) d -> b s p d", s=sample.depth.shape[1])
        logits = (queries[:, :, SPECIAL:].flatten(1, 2) @ k[:, 0].mT) / q.shape[-1] ** 0.5
        squares = targets.shape[-1]
        first = sample.reference * (SPECIAL + squares) + SPECIAL
        log_weight = functional.log_softmax(logits, dim=-1)[..., first : first + squares]
        return mean_over(-(targets * log_weight).sum(-1), visible)
