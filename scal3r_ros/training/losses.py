"""Losses of VGGT and MoE3D: cameras, depth as a mixture likelihood, gate entropy."""

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from scal3r_ros.network.moe_head import Mixture
from scal3r_ros.network.scal3r import ChunkOutput
from scal3r_ros.training.samples import ChunkSample

ROUND_DECAY = 0.6  # earlier rounds of the camera head count less (VGGT)
MIN_PIXELS = 100  # valid pixels below which a chunk teaches no depth
CLAMP = 10.0  # of one pixel's loss: outliers of the likelihood
LEAST_MOTION = 0.01  # of the mean distance, or half radians: who moves less stands still


@dataclass(frozen=True)
class LossConfig:
    camera: float = 0.03  # its gradient on the trunk is hundreds of times that of depth
    depth: float = 1.0
    mean: float = 0.5  # L1 of the mean log depth, which starts the experts off together
    gradient: float = 0.5  # of the mean log depth, over scales
    entropy: float = 1e-3  # + lambda H(w): drives the gate towards one expert
    expected: float = 0.0  # L1 of the experts, weighted by the gate
    balance: float = 0.0  # of the experts' use
    confidence: float = 0.2  # of the single head's confidence term
    motion_unit: bool = False  # poses count against how far the clip's cameras move and turn
    own_unit: bool = False  # true depth in the unit of the prediction, chunk by chunk
    correspondence: float = 0.0  # of the attention that is shown where to look, see there
    correspondence_layers: tuple[int, ...] = (1, 2)


@dataclass(frozen=True, eq=False)
class Losses:
    total: Float[Tensor, ""]
    parts: dict[str, Float[Tensor, ""]]  # detached, where they were computed

    def with_part(self, name: str, weight: float, part: Float[Tensor, ""] | None) -> "Losses":
        """One term more; without it where there is none."""
        if part is None:
            return self
        total = self.total + weight * part
        parts = self.parts | {name: part.detach(), "total": total.detach()}
        return Losses(total, parts)


def mean_over(values: Float[Tensor, "..."], where: Bool[Tensor, "..."]) -> Float[Tensor, ""]:
    """Mean of those values, 0 of none; unlike an index it neither waits for a GPU nor sorts."""
    return torch.where(where, values, 0.0).sum() / where.sum().clamp_min(1)


def camera_loss(
    rounds: list[Float[Tensor, "b s 9"]], truth: Float[Tensor, "b s 9"], motion_unit: bool = False
) -> Float[Tensor, ""]:
    """L1 of every round; q and -q are the same rotation. In a chunk a video's cameras move a few
    hundredths of the scene's unit and turn by a few hundredths of a quaternion: against fields of
    view that is little, unless it counts in the unit of their own motion."""
    total = truth.new_zeros(())
    way, turn = (_size(part) if motion_unit else 1.0 for part in (truth[..., :3], truth[..., 3:6]))
    for index, encoding in enumerate(rounds):
        sign = (encoding[..., 3:7] * truth[..., 3:7]).sum(-1, keepdim=True).sign().detach()
        quaternion = (encoding[..., 3:7] - torch.where(sign < 0, -1, 1) * truth[..., 3:7]).abs()
        translation = ((encoding[..., :3] - truth[..., :3]) / way).abs().clamp_max(CLAMP)
        fov = (encoding[..., 7:] - truth[..., 7:]).abs()
        terms = translation.mean() + (quaternion / turn).mean() + 0.5 * fov.mean()
        total = total + ROUND_DECAY ** (len(rounds) - 1 - index) * terms
    return total


def _size(motion: Float[Tensor, "b s 3"]) -> Float[Tensor, "b 1 1"]:
    """How far a clip's cameras are from the reference's, in the mean; never nothing."""
    return motion.norm(dim=-1).mean(dim=1).clamp_min(LEAST_MOTION)[:, None, None]


def mixture_nll(
    mixture: Mixture, log_depth: Float[Tensor, "f h w"], valid: Bool[Tensor, "f h w"]
) -> Float[Tensor, ""]:
    """-log sum_k w_k Laplace(z; mu_k, b_k) of log depth z, mean over valid pixels."""
    error = (mixture.log_depth - log_depth[:, None]).abs()
    log_density = -error * (-mixture.log_scale).exp() - mixture.log_scale - 0.6931
    nll = -torch.logsumexp(mixture.log_weight + log_density, dim=1)
    return mean_over(nll.clamp_max(CLAMP), valid)


def expected_error(
    mixture: Mixture, log_depth: Float[Tensor, "f h w"], valid: Bool[Tensor, "f h w"]
) -> Float[Tensor, ""]:
    """Mean L1 of log depth if the expert were drawn by the gate: sum_k w_k |mu_k - z|. Unlike the
    error of the mean it pays no expert for lying between two surfaces."""
    error = (mixture.log_depth - log_depth[:, None]).abs()
    return mean_over((mixture.log_weight.exp() * error).sum(dim=1).clamp_max(CLAMP), valid)


def imbalance(mixture: Mixture, valid: Bool[Tensor, "f h w"]) -> Float[Tensor, ""]:
    """log K less the entropy of the experts' use by the whole batch: 0 where all are used alike.
    A gate may be sure of each pixel at no cost, as long as it is not sure of one expert alone."""
    weight = mixture.log_weight.exp() * valid[:, None]
    use = weight.sum(dim=(0, 2, 3)) / valid.sum()
    return math.log(len(use)) + (use * use.clamp_min(1e-6).log()).sum()


def gradient_loss(
    log_depth: Float[Tensor, "f h w"],
    truth: Float[Tensor, "f h w"],
    valid: Bool[Tensor, "f h w"],
) -> Float[Tensor, ""]:
    """L1 of the differences between neighbours at strides 1, 2, 4, 8."""
    total = truth.new_zeros(())
    for stride in (1, 2, 4, 8):
        error, mask = (log_depth - truth)[:, ::stride, ::stride], valid[:, ::stride, ::stride]
        for across in (False, True):
            e, m = (error.mT, mask.mT) if across else (error, mask)
            steps = (e[:, 1:] - e[:, :-1]).abs().clamp_max(1.0)
            total = total + mean_over(steps, m[:, 1:] & m[:, :-1]) / 4
    return total


def chunk_loss(output: ChunkOutput, sample: ChunkSample, config: LossConfig) -> Losses:
    """All terms of one chunk."""
    total, parts = 0 * output.depth.sum(), {}  # a gradient, of zeros, where nothing is measured
    if config.camera > 0:
        camera = camera_loss(output.encodings, sample.encoding, config.motion_unit)
        total, parts = total + config.camera * camera, {"camera": camera.detach()}
    valid = rearrange(sample.valid, "b s h w -> (b s) h w")
    if int(valid.sum()) >= MIN_PIXELS:
        truth = rearrange(sample.depth, "b s h w -> (b s) h w").clamp_min(1e-4).log()
        depth, parts_depth = depth_loss(output, truth, valid, config)
        total = total + depth
        parts |= parts_depth
    return Losses(total, parts | {"total": total.detach()})


def depth_loss(
    output: ChunkOutput,
    truth: Float[Tensor, "f h w"],
    valid: Bool[Tensor, "f h w"],
    config: LossConfig,
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """Mixture likelihood, or the single head's confidence-weighted L1, on log depth."""
    mixture = output.mixture
    picked = rearrange(output.depth, "b s h w -> (b s) h w").clamp_min(1e-6).log()
    error = (picked - truth).abs()
    parts = {"log_depth": error.detach().masked_fill(~valid, math.nan).nanmedian()}
    if mixture is None:
        confidence = rearrange(output.confidence, "b s h w -> (b s) h w")
        weighted = error * confidence - config.confidence * confidence.log()
        smooth = gradient_loss(picked, truth, valid)
        depth = mean_over(weighted + error, valid)
        return config.depth * depth + config.gradient * smooth, parts
    nll = mixture_nll(mixture, truth, valid)
    mean = (mixture.log_weight.exp() * mixture.log_depth).sum(dim=1)
    mean_error = mean_over((mean - truth).abs().clamp_max(CLAMP), valid)
    entropy = mean_over(mixture.entropy(), valid)
    total = config.depth * nll + config.mean * mean_error + config.entropy * entropy
    if config.expected > 0:
        total = total + config.expected * expected_error(mixture, truth, valid)
    if config.balance > 0:
        total = total + config.balance * imbalance(mixture, valid)
    total = total + config.gradient * gradient_loss(mean, truth, valid)
    usage = mixture.log_weight.detach().exp().mean(dim=(0, 2, 3)).max()
    return total, parts | {"nll": nll.detach(), "entropy": entropy.detach(), "usage": usage}
