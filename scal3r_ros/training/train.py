"""One training loop: resumable, distributed by torchrun, limited by steps or by minutes."""

import json
import logging
import os
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from scal3r_ros.network.aggregator import MemoryPolicy
from scal3r_ros.network.checkpoint import load_model, save_weights
from scal3r_ros.network.devices import choose_device
from scal3r_ros.network.moe_head import MoeHead
from scal3r_ros.network.parallel import (
    Process,
    as_in_first,
    join_processes,
    own_device,
    started_by_torchrun,
)
from scal3r_ros.network.scal3r import ChunkImages, Scal3R, Scal3RConfig
from scal3r_ros.training.average import WarmAverage, learnt, put
from scal3r_ros.training.correspondence import AttentionProbe
from scal3r_ros.training.losses import LossConfig, Losses, chunk_loss
from scal3r_ros.training.pictures import validation_samples, write_validation_picture
from scal3r_ros.training.rgbd import RgbdSamples, in_unit_of
from scal3r_ros.training.samples import ChunkSample, WorldSamples
from scal3r_ros.training.settings import Progress, TrainConfig, learning_rate
from scal3r_ros.training.train_log import TrainLog

logger = logging.getLogger(__name__)

OF_NETWORK = ("initial", "depth_head", "moe_design", "trainable")  # settings that stay in a run
JITTER = 0.01  # of the experts that take a single head's place, as a share of each tensor's own


class SequenceLoss(nn.Module):
    """Network and losses over the chunks of one sequence; gradients flow through the memory."""

    def __init__(self, model: Scal3R, config: LossConfig) -> None:
        super().__init__()
        self.model, self.config = model, config
        layers = config.correspondence_layers if config.correspondence > 0 else ()
        self.probes = [AttentionProbe(model, layer) for layer in layers]

    def forward(self, chunks: list[ChunkSample]) -> list[Losses]:
        context, losses = None, []
        for sample in chunks:
            images = ChunkImages(sample.images, sample.reference, sample.overlap)
            outputs, context = self.model([images], context, MemoryPolicy())
            if self.config.own_unit:
                sample = in_unit_of(outputs[0].depth, sample)
            loss = chunk_loss(outputs[0], sample, self.config)
            losses.append(loss.with_part("match", self.config.correspondence, self._match(sample)))
        return losses

    def _match(self, sample: ChunkSample) -> Tensor | None:
        """How far attention is from where correspondences are."""
        if not self.probes or sample.images.shape[1] < 2:
            return None
        return torch.stack([probe.loss(sample) for probe in self.probes]).mean()


def train(config: TrainConfig) -> Path:
    """Runs until the budget is used; returns the path of the averaged weights."""
    torch.manual_seed(config.seed)
    torch.set_num_threads(config.threads)
    device = choose_device(own_device(config.device))
    process = join_processes(device) if started_by_torchrun() else Process(0, 1)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    model = _initial_model(config).to(device).train()
    average = WarmAverage(model, config.ema)
    optimiser = _optimiser(model, config)
    progress = _resume(config, model, average, optimiser)
    network = SequenceLoss(model, config.losses)
    if started_by_torchrun():
        network = DistributedDataParallel(network, find_unused_parameters=True)
    samples = _samples(config, model.config.image_width, (config.seed, process.rank, progress.step))
    # whichever worker has rendered: in order all would wait for the slowest (torch 2.6 or later)
    order = {"in_order": False} if config.workers > 1 else {}
    loader = DataLoader(samples, batch_size=None, num_workers=config.workers, **order)
    log = TrainLog(out / "log.csv", config, progress, silent=process.rank > 0)
    shown = validation_samples() if process.rank == 0 else []
    saved = clock = time.monotonic()
    for chunks in loader if progress.share(config) < 1 else ():
        losses = _step(network, [c.to(device) for c in chunks], optimiser, config, progress)
        average.update(progress.step)
        progress.step += 1
        now = time.monotonic()
        progress.seconds, clock = progress.seconds + now - clock, now
        if started_by_torchrun():  # the rate and the end depend on it: the same everywhere
            progress.seconds = as_in_first(progress.seconds, device)
        log.add(losses, sum(c.images.shape[0] * c.images.shape[1] for c in chunks))
        done = progress.share(config) >= 1
        if process.rank == 0 and (done or time.monotonic() - saved > config.save_every_s):
            with average.shown():
                _save_weights(out, model, progress, config)
                write_validation_picture(model, shown, out / "validation.png")
            _save(out, model, average, optimiser, progress, config)
            saved = time.monotonic()
        if done:
            break
    log.close()
    if started_by_torchrun():
        torch.distributed.destroy_process_group()
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
        group["lr"] = rate * group["relative_rate"]
    device = chunks[0].images.device.type
    with torch.autocast(device, torch.bfloat16, enabled=config.mixed_precision):
        losses = network(chunks)
    total = torch.stack([loss.total for loss in losses]).mean()
    optimiser.zero_grad(set_to_none=True)
    if not torch.isfinite(total):
        raise FloatingPointError(f"loss is {float(total)} at step {progress.step}")
    total.backward()
    nn.utils.clip_grad_norm_(network.parameters(), config.clip)
    optimiser.step()
    return losses


def _samples(
    config: TrainConfig, image_width: int, seed: tuple[int, ...]
) -> WorldSamples | RgbdSamples:
    samples = config.samples.for_width(image_width)
    return RgbdSamples(config.data, samples, seed) if config.data else WorldSamples(samples, seed)


def _initial_model(config: TrainConfig) -> Scal3R:
    """Ready to be trained: what is not to be changed needs no gradient."""
    model = _loaded_or_new(config)
    if config.trainable == "depth_head":
        model.requires_grad_(False).depth_head.requires_grad_(True)
    return model


def _loaded_or_new(config: TrainConfig) -> Scal3R:
    if config.initial:
        model = load_model(Path(config.initial))
        if (config.depth_head, model.config.depth_head) == ("moe", "dpt"):
            model.replace_depth_head(config.moe_design, model.config.moe_experts, JITTER)
        return model
    sizes = Scal3RConfig.nano().with_head(config.depth_head, config.moe_design)
    model = Scal3R(sizes)
    if isinstance(model.depth_head, MoeHead):
        apart = np.linspace(-1.0, 0.5, model.config.moe_experts).tolist()
        model.depth_head.start_apart(apart, log_scale=-1.0)
    return model


def _optimiser(model: Scal3R, config: TrainConfig) -> torch.optim.AdamW:
    """Decay on matrices only, as usual; fast weights are matrices too. Memory has its own rate."""
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kind = (".memories." in f".{name}", parameter.ndim > 1)
            groups.setdefault(kind, []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "weight_decay": config.weight_decay if is_matrix else 0.0,
                "relative_rate": config.memory_rate if in_memory else 1.0,
            }
            for (in_memory, is_matrix), parameters in groups.items()
        ],
        lr=config.learning_rate,
        betas=(0.9, 0.95),
    )


def _resume(
    config: TrainConfig, model: Scal3R, average: WarmAverage, optimiser: torch.optim.Optimizer
) -> Progress:
    """What an earlier piece left, under the options of now; ValueError where it was of another
    network."""
    path = Path(config.out) / "resume.pt"
    if not path.exists():
        return Progress()
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network = state["network"]
    except Exception as error:  # torch raises many kinds for a damaged or older file
        raise ValueError(f"{path} cannot be read: {error}") from error
    for name, held in network.items():
        if held != getattr(config, name):
            raise ValueError(f"{path} has {name} {held!r}, asked for {getattr(config, name)!r}")
    put(learnt(model), state["model"])
    put(average.values, state["average"])
    moments = {"state": state["optimiser"]["state"]}
    optimiser.load_state_dict(optimiser.state_dict() | moments)  # rates are those of now
    logger.info("resumed %s at step %d", path, state["step"])
    return Progress(state["step"], state["seconds"])


def _save_weights(out: Path, model: Scal3R, progress: Progress, config: TrainConfig) -> None:
    """In half precision, with where they come from; replaced atomically."""
    facts = {"step": str(progress.step), "seconds": f"{progress.seconds:.0f}"}
    recipe = {k: v for k, v in asdict(config).items() if k not in ("out", "initial")}  # no paths
    metadata = facts | {"training": json.dumps(recipe)}
    save_weights(out / "ema.safetensors", model, torch.float16, metadata)


def _save(
    out: Path,
    model: Scal3R,
    average: WarmAverage,
    optimiser: torch.optim.Optimizer,
    progress: Progress,
    config: TrainConfig,
) -> None:
    """What the next piece goes on from; replaced atomically."""
    state = {
        "model": learnt(model),
        "average": average.values,
        "optimiser": optimiser.state_dict(),
        "network": {name: getattr(config, name) for name in OF_NETWORK},
        "step": progress.step,
        "seconds": progress.seconds,
    }
    torch.save(state, out / "resume.tmp")
    os.replace(out / "resume.tmp", out / "resume.pt")
