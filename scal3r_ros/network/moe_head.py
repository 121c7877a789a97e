"""Mixture-of-experts depth (MoE3D, arXiv 2601.05208): K depth candidates and a gate per pixel.

No code or weights of the paper are public; K = 4 and the sign of the entropy term follow it, the
branch point, the gate's layers and its guide by colour are our choices. The designs
differ in what each expert owns: A the last convolutions, B both output stages, C the last fusion
as well, Z nothing but its rows of the last layer (MDA's way, arXiv 2606.02552).
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from scal3r_ros.network.colour_guide import ColourGuide
from scal3r_ros.network.dense_head import (
    DenseHead,
    FusedLevels,
    Fusion,
    Output,
    doubled,
    upsample,
)
from scal3r_ros.network.shapes import Float

DESIGNS = ("A", "B", "C", "Z")
DECODINGS = ("soft", "pick", "hybrid")
MIN_LOG_SCALE, MAX_LOG_SCALE = -4.5, 2.0  # of the likelihood: confidence is 1.14 to 91
HYBRID_SPREAD = 0.02  # relative spread under which candidates are one surface


@dataclass(frozen=True, eq=False)
class Mixture:
    """Per pixel K hypotheses of log depth with scales and gate log-weights."""

    log_depth: Float[Tensor, "f k h w"]
    log_scale: Float[Tensor, "f k h w"]
    log_weight: Float[Tensor, "f k h w"]  # log-softmax over k

    def decode(self, decoding: str) -> Float[Tensor, "f h w"]:
        """Depth. "pick" suits likelihood training, "soft" the paper's L1 on the mean."""
        if decoding == "pick":
            return self._picked(self.log_depth).exp()
        depth, weight = self.log_depth.exp(), self.log_weight.exp()
        if decoding == "soft":
            return (weight * depth).sum(dim=1)
        picked = self._picked(depth)
        mean = (weight * depth).sum(dim=1)
        spread = (weight * (depth - mean[:, None]) ** 2).sum(dim=1).sqrt()
        return torch.where(spread < HYBRID_SPREAD * mean, mean, picked)

    def certainty(self) -> Float[Tensor, "f h w"]:
        """Largest gate weight, in [1/K, 1]."""
        return self.log_weight.amax(dim=1).exp()

    def confidence(self) -> Float[Tensor, "f h w"]:
        """1 + 1/scale of the picked hypothesis: comparable to VGGT's 1 + exp(.) confidence."""
        return 1 + (-self._picked(self.log_scale)).exp()

    def _picked(self, values: Float[Tensor, "f k h w"]) -> Float[Tensor, "f h w"]:
        """Those of the likeliest hypothesis; argmax over a few planes takes ten times as long."""
        weights = self.log_weight.unbind(dim=1)
        likeliest, picked = weights[0], values[:, 0]
        for weight, other in zip(weights[1:], values.unbind(dim=1)[1:], strict=True):
            picked = torch.where(weight > likeliest, other, picked)
            likeliest = torch.maximum(likeliest, weight)
        return picked

    def entropy(self) -> Float[Tensor, "f h w"]:
        """Of the gate, in nats."""
        return -(self.log_weight.exp() * self.log_weight).sum(dim=1)


class Gate(nn.Module):
    """Logits from the fused features; at full resolution they change where colour does."""

    def __init__(self, features: int, experts: int, colour: bool = True) -> None:
        super().__init__()
        self.coarse = nn.Sequential(
            nn.Conv2d(features, features, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(features, features // 2, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(features // 2, experts, 1),
        )
        self.guide = ColourGuide() if colour else None
        zero_last(self.coarse)

    def forward(
        self, x: Float[Tensor, "f c h w"], images: Float[Tensor, "f 3 h2 w2"]
    ) -> Float[Tensor, "f k h2 w2"]:
        logits = self.coarse(x).float()
        if self.guide is None:
            return upsample(logits, (images.shape[-2], images.shape[-1]))
        return self.guide(logits, images)


def zero_last(layers: nn.Sequential) -> None:
    """Uniform weights at the start."""
    last = layers[-1]
    assert isinstance(last, nn.Conv2d) and last.bias is not None
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)


class MoeHead(nn.Module):
    """Replaces the DPT depth head; taps in, `Mixture` out."""

    def __init__(
        self,
        trunk: FusedLevels,
        features: int,
        *,
        hidden: int = 32,
        design: str = "C",
        experts: int = 4,
        temperature: float = 1.0,
        colour_gate: bool = True,
    ) -> None:
        super().__init__()
        if design not in DESIGNS:
            raise ValueError(f"design must be one of {DESIGNS}, got {design}")
        self.design, self.experts, self.temperature = design, experts, temperature
        self.trunk = trunk
        copies = {"A": (1, 1), "B": (1, experts), "C": (experts, experts), "Z": (1, 1)}[design]
        out = 3 * experts if design == "Z" else 2
        self.fusions = nn.ModuleList(Fusion(features) for _ in range(copies[0]))
        self.outputs = nn.ModuleList(Output(features, hidden, out) for _ in range(copies[1]))
        if design == "A":
            self.tails = nn.ModuleList(
                nn.ModuleList([copy.deepcopy(self.outputs[0].conv2), nn.Conv2d(hidden, 2, 1)])
                for _ in range(experts - 1)
            )
        if design != "Z":
            self.gate = Gate(features, experts, colour_gate)

    def forward(
        self, taps: list[Float[Tensor, "f n c"]], images: Float[Tensor, "f 3 h w"], patch: int
    ) -> Mixture:
        size = (images.shape[-2], images.shape[-1])
        grid = (size[0] // patch, size[1] // patch)
        fused, finest = self.trunk(taps, grid, size[1] / size[0])
        features = [fusion(fused, doubled(fused), finest) for fusion in self.fusions]
        if self.design == "Z":
            raw = self.outputs[0](features[0], size)
            log_depth, log_scale, logits = raw.float().split(self.experts, dim=1)
        else:
            raws = self._expert_outputs(features, size)
            log_depth, log_scale = raws[:, :, 0], -raws[:, :, 1]
            logits = self.gate(fused + finest, images)
        return Mixture(
            log_depth,
            log_scale.clamp(MIN_LOG_SCALE, MAX_LOG_SCALE),
            functional.log_softmax(logits / self.temperature, dim=1),
        )

    def start_apart(self, log_depths: Sequence[float], log_scale: float | None = None) -> None:
        """Where each expert begins, by its last bias: equal ones get equal gradients for ever."""
        alone = self.design != "Z"
        with torch.no_grad():
            for k, log_depth in enumerate(log_depths):
                bias = self._last_bias(k)
                bias[0 if alone else k] = log_depth
                if log_scale is not None:  # of a lone expert the bias is a confidence's
                    bias[1 if alone else self.experts + k] = -log_scale if alone else log_scale

    def _last_bias(self, expert: int) -> Tensor:
        """Of the layer that ends in this expert's depth."""
        if self.design == "A" and expert > 0:
            return self.tails[expert - 1].get_parameter("1.bias")
        own = expert if self.design in ("B", "C") else 0
        return self.outputs[own].get_parameter("conv3.bias")

    def _expert_outputs(
        self, features: list[Float[Tensor, "f c h w"]], size: tuple[int, int]
    ) -> Float[Tensor, "f k 2 h2 w2"]:
        if self.design == "A":
            raws = _tails(self.outputs[0], self.tails, features[0], size)
        else:
            shared = features * self.experts if len(features) == 1 else features
            raws = [out(x, size) for out, x in zip(self.outputs, shared, strict=True)]
        return torch.stack([raw.float() for raw in raws], dim=1)


def _tails(
    first: nn.Module, tails: nn.ModuleList, x: Tensor, size: tuple[int, int]
) -> list[Tensor]:
    """Design A: one stem, K pairs of last convolutions."""
    assert isinstance(first, Output)
    stem = first.stem(x, size)
    raws = [first.finish(stem)]
    for tail in tails:
        assert isinstance(tail, nn.ModuleList)
        raws.append(tail[1](tail[0](stem).relu()))
    return raws


def from_dense(
    head: DenseHead, *, design: str, experts: int = 4, jitter: float = 0.0, **options
) -> MoeHead:
    """A mixture whose decoded depth equals the single head's (exactly with jitter 0).

    `jitter` is the standard deviation added to the experts, as a share of each tensor's own.
    """
    moe = MoeHead(
        copy.deepcopy(head.trunk),
        head.fusion1.out_conv.in_channels,
        hidden=head.output.conv2.out_channels,
        design=design,
        experts=experts,
        **options,
    )
    for fusion in moe.fusions:
        fusion.load_state_dict(head.fusion1.state_dict())
    for output in moe.outputs:
        _copy_output(head.output, output, experts if design == "Z" else 1)
    for tail in getattr(moe, "tails", []):
        tail[0].load_state_dict(head.output.conv2.state_dict())
        tail[1].load_state_dict(head.output.conv3.state_dict())
    _jitter([moe.fusions, moe.outputs, getattr(moe, "tails", nn.ModuleList())], jitter)
    return moe


def _copy_output(source: Output, target: nn.Module, experts: int) -> None:
    assert isinstance(target, Output)
    target.conv1.load_state_dict(source.conv1.state_dict())
    target.conv2.load_state_dict(source.conv2.state_dict())
    if experts == 1:
        target.conv3.load_state_dict(source.conv3.state_dict())
        return
    assert source.conv3.bias is not None and target.conv3.bias is not None
    with torch.no_grad():
        for rows, row, sign in ((0, 0, 1.0), (1, 1, -1.0)):  # confidence is a precision
            part = slice(rows * experts, (rows + 1) * experts)
            target.conv3.weight[part] = sign * source.conv3.weight[row]
            target.conv3.bias[part] = sign * source.conv3.bias[row]
        target.conv3.weight[2 * experts :] = 0
        target.conv3.bias[2 * experts :] = 0


def _jitter(groups: list[nn.ModuleList], amount: float) -> None:
    with torch.no_grad():
        for parameter in (p for group in groups for p in group.parameters()):
            if amount > 0 and parameter.numel() > 1:
                parameter += torch.randn_like(parameter) * amount * parameter.std()
