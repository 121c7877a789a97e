"""Does a mixture of experts sharpen depth? One encoder, several heads, everything else equal.

The input is an image and its coarse depth (true depth averaged over 8 x 8 pixels, with noise),
which stands in for what a large backbone knows: so the head is judged, not the scene's ambiguity.
All arms have the same number of parameters, the same images in the same order, the same steps.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from scal3r_ros.evaluation.boundary import edge_errors
from scal3r_ros.network.dense_head import DenseHead
from scal3r_ros.network.moe_head import Mixture, MoeHead
from scal3r_ros.training.losses import mixture_nll
from scal3r_ros.training.scenes import FAMILIES
from scal3r_ros.training.world import render_clip

HEIGHT, WIDTH, PATCH = 64, 64, 8
SUPERSAMPLING = 3  # a pixel's colour is the mean of 3 x 3 rays, its depth that of the middle one
FOV_DEG = (20.0, 40.0)  # a window of a larger image: its edges are those of things
COARSE, COARSE_NOISE = 8, 0.03  # pixels that coarse depth is averaged over; deviation of its log
DIM, HEADS, LAYERS = 96, 4, 4
EXPERTS = 4
FIXED_LOG_SCALE = float(np.log(0.05))  # of the likelihood, in log depth
HELD_OUT = "clutter"  # a family of scenes that is never trained on
TRAIN_SEED, TEST_SEED = 2_000_000, 800_000
BATCH, RATE = 8, 1.5e-3
FEATURES = {"single": 32, "B": 24, "C": 24, "Z": 32}  # channels of a head's fused features
HIDDEN, CHANNELS, COARSEST = 16, (24, 32, 48), 64  # the coarsest level's channels fill up


@dataclass(frozen=True)
class Arm:
    """One head and how it is trained."""

    head: str  # single, B, C or Z
    recipe: str  # l1 (single), mean (L1 of the mean, gate entropy) or likelihood

    @property
    def name(self) -> str:
        return self.head if self.head == "single" else f"{self.head}, {self.recipe}"

    @property
    def decodings(self) -> tuple[str, ...]:
        return ("soft",) if self.head == "single" else ("soft", "pick")


ARMS = (
    Arm("single", "l1"),
    *(Arm(head, recipe) for head in ("B", "C", "Z") for recipe in ("mean", "likelihood")),
)


@dataclass(frozen=True, eq=False)
class Views:
    """Images that stand alone."""

    images: Float[Tensor, "n 3 h w"]
    depth: Float[Tensor, "n h w"]  # 0 = sky
    held_out: list[bool]

    def inputs(self, rows: Tensor, noise: torch.Generator) -> Float[Tensor, "b 4 h w"]:
        """Colour and coarse log depth."""
        depth = self.depth[rows][:, None]
        seen = (depth > 0).to(depth.dtype)
        mean = functional.avg_pool2d(depth.clamp_min(1e-3).log() * seen, COARSE)
        log = mean / functional.avg_pool2d(seen, COARSE).clamp_min(1e-3)
        log = log + COARSE_NOISE * torch.randn(log.shape, generator=noise)
        size = (depth.shape[2], depth.shape[3])
        log = functional.interpolate(log, size, mode="bilinear", align_corners=False)
        return torch.cat([self.images[rows], log / 3], dim=1)


def views(kept: Path, count: int, first_seed: int, families: tuple[str, ...]) -> Views:
    """Rendered once, kept in a file."""
    if not kept.exists():
        rendered = [
            _view(first_seed + i, families[i % len(families)])
            for i in tqdm(range(count), desc=f"rendering {kept.name}")
        ]
        images, depth = (torch.stack(parts) for parts in zip(*rendered, strict=True))
        kept.parent.mkdir(parents=True, exist_ok=True)
        save_file({"images": images, "depth": depth}, kept)
    tensors = load_file(kept)
    held_out = [families[i % len(families)] == HELD_OUT for i in range(len(tensors["depth"]))]
    images = tensors["images"].float() / 255
    return Views(images, tensors["depth"], held_out)


def training_views(folder: Path, count: int) -> Views:
    families = tuple(f for f in FAMILIES if f != HELD_OUT)
    return views(folder / f"train_{count}.safetensors", count, TRAIN_SEED, families)


def test_views(folder: Path, count: int) -> Views:
    return views(folder / f"test_{count}.safetensors", count, TEST_SEED, FAMILIES)


def _view(seed: int, family: str) -> tuple[Tensor, Tensor]:
    n = SUPERSAMPLING
    clip = render_clip(seed, 1, n * HEIGHT, n * WIDTH, family=family, fov_deg=FOV_DEG)
    image = functional.avg_pool2d(clip.images[0].permute(2, 0, 1).float(), n)
    return image.round().byte(), clip.depth[0, n // 2 :: n, n // 2 :: n].contiguous()


class TrialNet(nn.Module):
    """A small vision transformer and one head on top."""

    def __init__(self, head: str, coarsest: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(4, DIM, PATCH, stride=PATCH)
        self.places = nn.Parameter(0.02 * torch.randn(HEIGHT * WIDTH // PATCH**2, DIM))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                DIM, HEADS, 2 * DIM, dropout=0.0, batch_first=True, norm_first=True
            )
            for _ in range(LAYERS)
        )
        sizes = (DIM, FEATURES[head], (*CHANNELS, coarsest))
        self.head = (
            DenseHead(*sizes, out=1, hidden=HIDDEN)
            if head == "single"
            else MoeHead(*sizes, hidden=HIDDEN, design=head, experts=EXPERTS)
        )

    def forward(self, x: Float[Tensor, "b 4 h w"]) -> Mixture:
        tokens = rearrange(self.patches(x), "b c h w -> b (h w) c") + self.places
        taps = []
        for block in self.blocks:
            tokens = block(tokens)
            taps.append(tokens)
        out = self.head(taps, x[:, :3], PATCH)
        if isinstance(out, Mixture):
            return out
        return Mixture(out, torch.zeros_like(out), torch.zeros_like(out))


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def matched_net(head: str) -> TrialNet:
    """As many parameters as the single head's network, within half a percent."""
    wanted = parameters(TrialNet("single", COARSEST))
    sizes = range(16, 129, 4)
    counts = {size: parameters(TrialNet(head, size)) for size in sizes}
    return TrialNet(head, min(counts, key=lambda size: abs(counts[size] - wanted)))


def _spread(net: TrialNet) -> None:
    """Experts that begin at the same depth never part: near, middle, far."""
    if not isinstance(net.head, MoeHead):
        return
    start = torch.linspace(0.3, 2.0, EXPERTS)
    with torch.no_grad():
        for k, output in enumerate(net.head.outputs):
            bias = output.get_parameter("conv3.bias")
            if net.head.design == "Z":
                bias[:EXPERTS] = start
            else:
                bias[0] = start[k]


def trial_loss(
    mixture: Mixture, depth: Float[Tensor, "b h w"], recipe: str, entropy: float
) -> Float[Tensor, ""]:
    """L1 of (mean) log depth with gate entropy, or the likelihood at a fixed scale."""
    valid = depth > 0
    log_depth = depth.clamp_min(1e-3).log()
    if recipe == "likelihood":
        fixed = replace(mixture, log_scale=torch.full_like(mixture.log_scale, FIXED_LOG_SCALE))
        return mixture_nll(fixed, log_depth, valid)
    mean = mixture.decode("soft").clamp_min(1e-3).log()
    return (mean - log_depth)[valid].abs().mean() + entropy * mixture.entropy()[valid].mean()


def run_trial(arm: Arm, seed: int, steps: int, train: Views, test: Views) -> list[dict]:
    """Trains one arm; a row for each way of decoding and group of test scenes."""
    torch.manual_seed(seed)
    net = matched_net(arm.head)
    _spread(net)
    optimiser = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, RATE, total_steps=steps, pct_start=0.05
    )
    noise = torch.Generator().manual_seed(seed)
    batches = tqdm(
        _batches(len(train.depth), steps, noise), total=steps, desc=f"{arm.name}, {seed}"
    )
    for step, rows in enumerate(batches):
        if isinstance(net.head, MoeHead) and arm.recipe == "mean":
            net.head.temperature = max(0.3, 1 - 0.7 * step / (0.8 * steps))
        mixture = net(train.inputs(rows, noise))
        loss = trial_loss(mixture, train.depth[rows], arm.recipe, entropy=1e-3)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        batches.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return _judged(arm, seed, steps, net.eval(), test)


def _batches(count: int, steps: int, noise: torch.Generator) -> Iterator[Tensor]:
    for _ in range(steps):
        yield torch.randint(count, (BATCH,), generator=noise)


@torch.no_grad()
def _judged(arm: Arm, seed: int, steps: int, net: TrialNet, test: Views) -> list[dict]:
    noise = torch.Generator().manual_seed(TEST_SEED)
    parts = torch.arange(len(test.depth)).split(16)
    mixtures = [net(test.inputs(rows, noise)) for rows in parts]
    usage = torch.stack([m.log_weight.exp().mean(dim=(0, 2, 3)) for m in mixtures]).mean(0)
    facts = {
        "arm": arm.name,
        "seed": seed,
        "steps": steps,
        "parameters": parameters(net),
        "gate_entropy": round(float(torch.stack([m.entropy().mean() for m in mixtures]).mean()), 4),
        "largest_usage": round(float(usage.max()), 4),
    }
    held_out, truth, rows = np.array(test.held_out), test.depth.numpy(), []
    for decoding in arm.decodings:
        estimate = torch.cat([m.decode(decoding) for m in mixtures]).numpy()
        for scenes, chosen in (("known families", ~held_out), ("held-out family", held_out)):
            errors = edge_errors(truth[chosen], estimate[chosen]).as_dict()
            rows.append(facts | {"decoding": decoding, "scenes": scenes} | errors)
    return rows
