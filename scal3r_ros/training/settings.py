"""What a training run depends on."""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

from scal3r_ros.training.losses import LossConfig
from scal3r_ros.training.samples import SampleConfig

TRAINABLE = ("all", "depth_head")
DEPTH_HEADS = ("dpt", "moe")


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
    initial: str = ""  # weights to start from, ours or official
    depth_head: str = "moe"  # of a new network; a single head that is loaded is replaced by moe
    moe_design: str = "Z"
    trainable: str = "all"  # or depth_head: the rest stays as it is loaded
    memory_rate: float = 1.0  # learning rate of the memory layers, times the others' (paper: 10)
    mixed_precision: bool = False  # blocks in bfloat16; memory, heads and weights stay float32
    data: tuple[str, ...] = ()  # folders of images and depth; none: the procedural world
    samples: SampleConfig = field(default_factory=SampleConfig)
    losses: LossConfig = field(default_factory=LossConfig)

    def __post_init__(self) -> None:
        if self.trainable not in TRAINABLE:
            raise ValueError(f"trainable must be one of {TRAINABLE}, got {self.trainable}")
        if self.depth_head not in DEPTH_HEADS:
            raise ValueError(f"depth_head must be one of {DEPTH_HEADS}, got {self.depth_head}")
        if self.minutes <= 0 or self.steps <= 0:
            raise ValueError(f"a run needs minutes and steps, got {self.minutes} and {self.steps}")
        if self.data and (self.losses.camera > 0 or self.losses.correspondence > 0):
            raise ValueError(
                "folders of images and depth teach no poses: losses.camera and "
                "losses.correspondence must be 0"
            )
        if self.data and not self.losses.own_unit:
            raise ValueError("metres are not asked of a network: losses.own_unit must be true")
        if self.workers and self.samples.render_device != "cpu":
            raise ValueError(
                "rendering on a GPU happens in the training process: workers must be 0"
            )


def finetuning(config: TrainConfig) -> TrainConfig:
    """The depth head alone, as a mixture of experts, of a network that knows its poses."""
    losses = replace(config.losses, camera=0.0, correspondence=0.0, own_unit=True)
    return replace(
        config,
        trainable="depth_head",
        moe_design="C",
        learning_rate=1e-4,
        mixed_precision=True,
        losses=losses,
    )


def with_options(
    config: TrainConfig,
    out: Path | None,
    minutes: float | None,
    initial: Path | None,
    data: list[Path],
    device: str,
) -> TrainConfig:
    """What a command line says, where it says something."""
    return replace(
        config,
        out=config.out if out is None else str(out),
        minutes=config.minutes if minutes is None else minutes,
        initial=config.initial if initial is None else str(initial),
        data=tuple(map(str, data)) or config.data,
        device=device or config.device,
    )


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
