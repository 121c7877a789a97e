"""What a training run says while it runs."""

import csv
import time
from pathlib import Path

import torch
from tqdm import tqdm

from scal3r_ros.training.losses import Losses
from scal3r_ros.training.settings import Progress, TrainConfig

PARTS = ("camera", "entropy", "log_depth", "match", "nll", "total", "usage")  # of the loss
COLUMNS = ("step", "seconds", "frames_per_second", *PARTS)


class TrainLog:
    """A progress bar and one CSV line now and then, with running means."""

    def __init__(self, path: Path, config: TrainConfig, progress: Progress, silent: bool) -> None:
        self.path, self.config, self.progress, self.silent = path, config, progress, silent
        self.means: dict[str, float] = {}
        self.frames, self.since = 0, time.monotonic()
        self.bar = tqdm(total=100.0, unit="%", disable=silent, bar_format="{l_bar}{bar}{postfix}")

    def add(self, losses: list[Losses], frames: int) -> None:
        for loss in losses:
            stacked = torch.stack(list(loss.parts.values()))
            values: list[float] = stacked.tolist()  # a GPU is waited for once
            for name, value in zip(loss.parts, values, strict=True):
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
            **{k: round(v, 4) for k, v in self.means.items()},
        }
        is_new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)  # a part not seen yet is left empty
            if is_new:
                writer.writeheader()
            writer.writerow(row)

    def close(self) -> None:
        """What came after the last line gets one, too."""
        if self.frames and not self.silent:
            self._write()
        self.bar.close()
