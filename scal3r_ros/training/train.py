"""One training loop: resumable, distributed by torchrun, limited by steps or by minutes."""

import csv
import json
import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader
from tqdm import tqdm

from scal3r_ros.network.aggregator import MemoryPolicy
from scal3r_ros.network.checkpoint import load_model, save_weights
from scal3r_ros.network.scal3r import ChunkImages, Scal3R, Scal3RConfig
from scal3r_ros.training.losses import LossConfig, Losses, chunk_loss
from scal3r_ros.training.samples import ChunkSample, SampleConfig, WorldSamples

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainConfig:
    """Everything a run depends on; written beside its weights."""

    out: str = "out/train"
    minutes: float = 60.0  # wall time of the whole run, pieces added up
    steps: int = 1_000_000  # or this many optimiser steps, whichever comes first
    learning_rate: float = 6e-4
    warmup: float = 0.02  # share of the run
    weight_decay: float = 0.05
    clip: float = 1.0
    ema: float = 0.999
    seed: int = 1
    workers: int = 1
    threads: int = 1
    device: str = "cpu"
    save_every_s: float = 120.0
    initial: str = ""  # weights to start from
    depth_head: str = "moe"
    moe_design: str = "Z"
    samples: SampleConfig = field(default_factory=SampleConfig)
    losses: LossConfig = field(default_factory=LossConfig)


@dataclass
class Progress:
    """What a resumed run continues from."""

    step: int = 0
    seconds: float = 0.0

    def share(self, config: TrainConfig) -> float:
        return max(self.step / config.steps, self.seconds / (60 * config.minutes))


def learning_rate(config: TrainConfig, share: float) -> float:
    """Linear warm-up, then cosine to 2 %."""
    if share < config.warmup:
        return config.learning_rate * share / config.warmup
    turn = (share - config.warmup) / (1 - config.warmup)
    return config.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(turn, 1))))


def warm_average(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """Exponential average that follows quickly at first, so that short runs forget their start."""

    def update(average: Tensor, current: Tensor, seen: Tensor | int) -> Tensor:
        steps = float(seen)
        keep = min(decay, (1 + steps) / (10 + steps))
        return torch.lerp(average, current, 1 - keep) if average.is_floating_point() else current

    return update


class SequenceLoss(nn.Module):
    """Network and losses over the chunks of one sequence; gradients flow through the memory."""

    def __init__(self, model: Scal3R, config: LossConfig) -> None:
        super().__init__()
        self.model, self.config = model, config

    def forward(self, chunks: list[ChunkSample]) -> list[Losses]:
        context, losses = None, []
        for sample in chunks:
            images = ChunkImages(sample.images, sample.reference, sample.overlap)
            outputs, context = self.model([images], context, MemoryPolicy())
            losses.append(chunk_loss(outputs[0], sample, self.config))
        return losses


def train(config: TrainConfig) -> Path:
    """Runs until the budget is used; returns the path of the averaged weights."""
    torch.manual_seed(config.seed)
    torch.set_num_threads(config.threads)
    rank = _join_processes(config)
    device = torch.device(config.device)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    model = _initial_model(config).to(device).train()
    average = AveragedModel(model, avg_fn=warm_average(config.ema))
    optimiser = _optimiser(model, config)
    progress = _resume(out, model, average, optimiser)
    network = SequenceLoss(model, config.losses)
    if torch.distributed.is_initialized():
        network = DistributedDataParallel(network, find_unused_parameters=True)
    samples = WorldSamples(config.samples, seed=config.seed + 1000 * rank + progress.step)
    loader = DataLoader(samples, batch_size=None, num_workers=config.workers)
    log = TrainLog(out / "log.csv", config, progress, silent=rank > 0)
    saved = clock = time.monotonic()
    for chunks in loader:
        losses = _step(network, [c.to(device) for c in chunks], optimiser, config, progress)
        average.update_parameters(model)
        progress.step += 1
        now = time.monotonic()
        progress.seconds, clock = progress.seconds + now - clock, now
        log.add(losses, sum(c.images.shape[0] * c.images.shape[1] for c in chunks))
        done = progress.share(config) >= 1
        if rank == 0 and (done or time.monotonic() - saved > config.save_every_s):
            _save(out, model, average, optimiser, progress, config)
            saved = time.monotonic()
        if done:
            break
    log.close()
    return out / "ema.safetensors"


def _step(
    network: nn.Module,
    chunks: list[ChunkSample],
    optimiser: torch.optim.Optimizer,
    config: TrainConfig,
    progress: Progress,
) -> list[Losses]:
    rate = learning_rate(config, progress.share(config))
    for group in optimiser.param_groups:
        group["lr"] = rate
    losses = network(chunks)
    total = torch.stack([loss.total for loss in losses]).mean()
    optimiser.zero_grad(set_to_none=True)
    if not torch.isfinite(total):
        raise FloatingPointError(f"loss is {float(total)} at step {progress.step}")
    total.backward()
    nn.utils.clip_grad_norm_(network.parameters(), config.clip)
    optimiser.step()
    return losses


def _initial_model(config: TrainConfig) -> Scal3R:
    if config.initial:
        return load_model(Path(config.initial))
    sizes = Scal3RConfig.nano().with_head(config.depth_head, config.moe_design)
    model = Scal3R(sizes)
    if config.depth_head == "moe" and config.moe_design == "Z":
        _spread_experts(model)
    return model


def _spread_experts(model: Scal3R) -> None:
    """Different biases break the symmetry of the experts: near, middle, far."""
    experts = model.config.moe_experts
    last = model.depth_head.get_submodule("outputs.0.conv3")
    assert isinstance(last, nn.Conv2d) and last.bias is not None
    with torch.no_grad():
        last.bias[:experts] = torch.linspace(-1.0, 0.5, experts)
        last.bias[experts : 2 * experts] = -1.0


def _optimiser(model: Scal3R, config: TrainConfig) -> torch.optim.AdamW:
    """Decay on matrices only, as usual; fast weights are matrices too."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95))


def _join_processes(config: TrainConfig) -> int:
    """Rank under torchrun, else 0."""
    if "RANK" not in os.environ:
        return 0
    torch.distributed.init_process_group("nccl" if config.device.startswith("cuda") else "gloo")
    return torch.distributed.get_rank()


def _resume(
    out: Path, model: Scal3R, average: AveragedModel, optimiser: torch.optim.Optimizer
) -> Progress:
    path = out / "resume.pt"
    if not path.exists():
        return Progress()
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    average.load_state_dict(state["average"])
    optimiser.load_state_dict(state["optimiser"])
    logger.info("resumed %s at step %d", path, state["step"])
    return Progress(state["step"], state["seconds"])


def _save(
    out: Path,
    model: Scal3R,
    average: AveragedModel,
    optimiser: torch.optim.Optimizer,
    progress: Progress,
    config: TrainConfig,
) -> None:
    """Resume state and averaged half-precision weights, each replaced atomically."""
    state = {
        "model": model.state_dict(),
        "average": average.state_dict(),
        "optimiser": optimiser.state_dict(),
        "step": progress.step,
        "seconds": progress.seconds,
    }
    torch.save(state, out / "resume.tmp")
    os.replace(out / "resume.tmp", out / "resume.pt")
    facts = {"step": str(progress.step), "seconds": f"{progress.seconds:.0f}"}
    recipe = {k: v for k, v in asdict(config).items() if k not in ("out", "initial")}  # no paths
    metadata = facts | {"training": json.dumps(recipe)}
    save_weights(out / "ema.tmp", average.module, torch.float16, metadata)
    os.replace(out / "ema.tmp", out / "ema.safetensors")


class TrainLog:
    """A progress bar and one CSV line now and then, with running means."""

    def __init__(self, path: Path, config: TrainConfig, progress: Progress, silent: bool) -> None:
        self.path, self.config, self.progress, self.silent = path, config, progress, silent
        self.means: dict[str, float] = {}
        self.frames, self.since = 0, time.monotonic()
        self.bar = tqdm(total=100.0, unit="%", disable=silent, bar_format="{l_bar}{bar}{postfix}")

    def add(self, losses: list[Losses], frames: int) -> None:
        for loss in losses:
            for name, value in loss.parts.items():
                self.means[name] = 0.98 * self.means.get(name, value) + 0.02 * value
        self.frames += frames
        self.bar.n = min(100.0, 100 * self.progress.share(self.config))
        self.bar.set_postfix({k: f"{v:.3f}" for k, v in self.means.items()}, refresh=False)
        if self.progress.step % 10 == 0:
            self.bar.refresh()
        if self.progress.step % 50 == 0 and not self.silent:
            self._write()

    def _write(self) -> None:
        rate = self.frames / (time.monotonic() - self.since)
        self.frames, self.since = 0, time.monotonic()
        row = {
            "step": self.progress.step,
            "seconds": round(self.progress.seconds),
            "frames_per_second": round(rate, 2),
            **{k: round(v, 4) for k, v in sorted(self.means.items())},
        }
        is_new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            if is_new:
                writer.writeheader()
            writer.writerow(row)

    def close(self) -> None:
        self.bar.close()
