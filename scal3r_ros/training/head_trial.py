"""Does a mixture of experts sharpen depth? One encoder, several heads, everything else equal.

The input is an image and its coarse depth (true depth averaged over 8 x 8 pixels, with noise),
which stands in for what a large backbone knows, and surfaces have one colour each: so the head is
judged, not whether a small network can tell a pattern's edge from a thing's. Windows without an
edge teach nothing about edges and are left out. All arms have the same number of parameters, the
same images in the same order, the same steps.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from scal3r_ros.evaluation.boundary import edge_errors
from scal3r_ros.network.colour_guide import ColourGuide
from scal3r_ros.network.dense_head import DenseHead, FusedLevels, doubled, placed
from scal3r_ros.network.moe_head import Mixture, MoeHead
from scal3r_ros.training.head_views import COARSE_UNIT, FOV_DEG, TEST_SEED, Views
from scal3r_ros.training.losses import expected_error, imbalance, mixture_nll

PATCH = 8
EXPERTS = 4
SPREAD = 0.6  # of their first log depths round the coarse one
FIXED_LOG_SCALE = float(np.log(0.05))  # of the likelihood, in log depth
RECIPES = {  # weights of the terms of `trial_loss`
    "l1": {"mean": 1.0},
    "joint": {"mean": 0.5, "expected": 0.5, "likelihood": 0.1, "imbalance": 0.05},
    "mean": {"mean": 1.0, "entropy": 1e-3},
    "likelihood": {"likelihood": 1.0, "entropy": 0.05},
}
BATCH, RATE = 16, 1.5e-3
FEATURES = {"single": 32, "guided": 32, "B": 24, "C": 24, "Z": 32}  # channels
HIDDEN, STEM, CHANNELS = 16, 16, (24, 32, 48)
COARSEST = 64  # channels of the coarsest level; others' are what makes parameters equal


@dataclass(frozen=True)
class Arm:
    """One head and how it is trained."""

    head: str  # single, guided, B, C or Z
    recipe: str  # of RECIPES; l1 where there is no mixture

    @property
    def name(self) -> str:
        return self.head if self.recipe == "l1" else f"{self.head}, {self.recipe}"

    @property
    def decodings(self) -> tuple[str, ...]:
        return ("soft",) if self.recipe == "l1" else ("soft", "pick")


ARMS = (
    Arm("single", "l1"),
    Arm("guided", "l1"),
    *(Arm(head, recipe) for recipe in ("joint", "mean", "likelihood") for head in ("C", "B", "Z")),
)


class Halved(nn.Module):
    """Half the size (or, `stride` 1, the same), and one residual step."""

    def __init__(self, channels: int, out: int, stride: int = 2) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride=stride, padding=1)
        self.norm = nn.GroupNorm(1, out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        x = self.conv1(x).relu()
        return (x + self.conv2(self.norm(x))).relu()


class StandIn(FusedLevels):
    """In the place of a large backbone and the trunk that fuses its taps: a small pyramid of
    convolutions, which knows edges where a backbone's wide tokens know them."""

    def __init__(self, features: int, coarsest: int) -> None:
        super().__init__(features)
        channels = (STEM, *CHANNELS, coarsest)
        self.stem = Halved(4, STEM, stride=1)
        self.halves = nn.ModuleList(Halved(a, b) for a, b in pairwise(channels))
        self.levels = nn.ModuleList(
            nn.Conv2d(c, features, 3, padding=1, bias=False) for c in channels[1:]
        )

    def forward(
        self, pixels: list[Float[Tensor, "b n 4"]], grid: tuple[int, int], _aspect: float
    ) -> tuple[Float[Tensor, "b d h w"], Float[Tensor, "b d h w"]]:
        """As `DenseTrunk`, of the pixels' colour and coarse depth: fused down to level 2, and
        level 1."""
        x = rearrange(pixels[0], "b (h w) c -> b c h w", h=grid[0] * PATCH)
        x, levels = self.stem(x), []
        for half, level in zip(self.halves, self.levels, strict=True):
            x = half(x)
            levels.append(level(x))
        return self.fused(levels), levels[0]


class GuidedHead(DenseHead):
    """A single head with the mixture's guide by colour: what the guide does without experts."""

    def __init__(self, trunk: FusedLevels, features: int) -> None:
        super().__init__(trunk, features, out=1, hidden=HIDDEN)
        self.guide = ColourGuide()

    def forward(
        self, taps: list[Float[Tensor, "b n 4"]], images: Float[Tensor, "b 3 h w"], patch: int
    ) -> Float[Tensor, "b 1 h w"]:
        height, width = images.shape[-2:]
        fused, finest = self.trunk(taps, (height // patch, width // patch), width / height)
        x = self.output.conv1(self.fusion1(fused, doubled(fused), finest))
        return self.output.finish(placed(self.guide(x, images), width / height))


class TrialNet(nn.Module):
    """One of the project's heads on the stand-in; it corrects the coarse depth."""

    def __init__(self, head: str, coarsest: int) -> None:
        super().__init__()
        features = FEATURES[head]
        trunk = StandIn(features, coarsest)
        self.head: nn.Module
        if head == "single":
            self.head = DenseHead(trunk, features, out=1, hidden=HIDDEN)
        elif head == "guided":
            self.head = GuidedHead(trunk, features)
        else:
            self.head = MoeHead(trunk, features, hidden=HIDDEN, design=head, experts=EXPERTS)

    def forward(self, x: Float[Tensor, "b 4 h w"]) -> Mixture:
        out = self.head([rearrange(x, "b c h w -> b (h w) c")], x[:, :3], PATCH)
        coarse = COARSE_UNIT * x[:, 3:]
        if isinstance(out, Mixture):
            return replace(out, log_depth=out.log_depth + coarse)
        return Mixture(out + coarse, torch.zeros_like(out), torch.zeros_like(out))


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def matched_net(head: str) -> TrialNet:
    """As many parameters as the single head's network, within half a percent."""

    def count(size: int) -> int:
        with torch.device("meta"):  # counted, not made
            return parameters(TrialNet(head, size))

    with torch.device("meta"):
        wanted = parameters(TrialNet("single", COARSEST))
    sizes = range(32, 97)
    above = bisect_left(sizes, wanted, key=count)
    return TrialNet(head, min(sizes[above - 1 : above + 1], key=lambda s: abs(count(s) - wanted)))


def start_net(head: str) -> TrialNet:
    """Some experts begin nearer than the coarse depth, some farther."""
    net = matched_net(head)
    if isinstance(net.head, MoeHead):
        net.head.start_apart(np.linspace(-SPREAD, SPREAD, EXPERTS).tolist())
    return net


def trial_loss(mixture: Mixture, depth: Float[Tensor, "b h w"], recipe: str) -> Float[Tensor, ""]:
    """What a recipe weighs: L1 of the mean depth, the error of picking by the gate, the likelihood
    at a fixed scale, uneven use of the experts, the gate's entropy."""
    valid = depth > 0
    log_depth = depth.clamp_min(1e-3).log()

    def mean() -> Tensor:
        return (mixture.decode("soft").clamp_min(1e-3).log() - log_depth)[valid].abs().mean()

    def likelihood() -> Tensor:
        fixed = replace(mixture, log_scale=torch.full_like(mixture.log_scale, FIXED_LOG_SCALE))
        return mixture_nll(fixed, log_depth, valid)

    terms: dict[str, Callable[[], Tensor]] = {
        "mean": mean,
        "expected": lambda: expected_error(mixture, log_depth, valid),
        "likelihood": likelihood,
        "imbalance": lambda: imbalance(mixture, valid),
        "entropy": lambda: mixture.entropy()[valid].mean(),
    }
    return torch.stack([weight * terms[name]() for name, weight in RECIPES[recipe].items()]).sum()


def run_trial(arm: Arm, seed: int, steps: int, train: Views, test: Views) -> list[dict]:
    """Trains one arm; a row for each way of decoding and group of test scenes."""
    torch.manual_seed(seed)
    net = start_net(arm.head).to(memory_format=torch.channels_last)  # up to 1.5 times as fast
    optimiser = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=0.01, fused=True)
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
        loss = trial_loss(mixture, train.depth[rows], arm.recipe)
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
        "test_seed": TEST_SEED,
        "fov_deg": FOV_DEG,
        "parameters": parameters(net),
        "gate_entropy": round(float(torch.stack([m.entropy().mean() for m in mixtures]).mean()), 4),
        "largest_usage": round(float(usage.max()), 4),
    }
    held_out, truth, rows = np.array(test.held_out), test.depth.numpy(), []
    for decoding in arm.decodings:
        estimate = torch.cat([m.decode(decoding) for m in mixtures]).numpy()
        for scenes, chosen in (("known families", ~held_out), ("held-out family", held_out)):
            if not chosen.any():
                continue
            errors = edge_errors(truth[chosen], estimate[chosen]).as_dict()
            rows.append(facts | {"decoding": decoding, "scenes": scenes} | errors)
    return rows
