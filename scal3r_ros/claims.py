"""`scal3r eval claims`: what the two papers claim, measured with our own means.

Every finished run leaves a file in `out`: an interrupted evaluation goes on. The rules by which the
claims are judged stand in `claims_report`.
"""

import json
import os
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from scal3r_ros.claims_filters import filter_rows, threshold_rows
from scal3r_ros.claims_report import write_report
from scal3r_ros.data.sequence_folder import write_sequence
from scal3r_ros.data.tum import Trajectory, read_trajectory
from scal3r_ros.evaluation.trajectory import associate, evaluate
from scal3r_ros.geometry.align import umeyama
from scal3r_ros.mapping.config import profile
from scal3r_ros.offline import OfflineRun
from scal3r_ros.offline import run as map_offline
from scal3r_ros.training.head_trial import ARMS, run_trial
from scal3r_ros.training.head_views import TEST_SEED, test_views, training_views
from scal3r_ros.training.paths import tour
from scal3r_ros.training.world import render_clip

PARTS = ("heads", "memory", "filters")
TRAIN_VIEWS, TEST_VIEWS = 6000, 600  # windows
TOUR_SEED = 700_000  # worlds; training worlds lie far above
TOUR_SIZE, TOUR_HZ = (126, 168), 10
CHUNKS = (1, 4, 16, 64)  # of a tour
MODES = {"none": ("causal", False), "causal": ("causal", True), "offline": ("offline", True)}
TOUR_SETTINGS = """# every image is a keyframe, no loop is closed
keyframes: {min_flow: 0.0, standstill_flow: 0.0}
loops: {enabled: false}
refinement: {enabled: %s}
"""


def run_claims(out: Path, parts: tuple[str, ...], seeds: tuple[int, ...], steps: int) -> None:
    """Raises ValueError for a part that is not known."""
    for part in parts:
        if part not in PARTS:
            raise ValueError(f"parts must be among {PARTS}, got {part}")
    out.mkdir(parents=True, exist_ok=True)
    if "heads" in parts:
        run_heads(out, seeds, steps)
    if "memory" in parts:
        run_memory(out, seeds)
    if "filters" in parts:
        _once(out / "filters.json", filter_rows)
        _once(out / "thresholds.json", threshold_rows)


def report(out: Path, path: Path) -> None:
    """Everything that has been run so far."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for part in (*PARTS, "thresholds"):
        rows[part] = []
        for file in sorted(out.glob(f"{part}*.json")):
            rows[part] += json.loads(file.read_text())
    write_report(rows, path)


def _once(file: Path, make: Callable[[], list[dict[str, Any]]]) -> None:
    """What has been made is not made again."""
    if not file.exists():
        part = file.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(make(), indent=1) + "\n")
        os.replace(part, file)


def run_heads(out: Path, seeds: tuple[int, ...], steps: int) -> None:
    train = training_views(out / "views", TRAIN_VIEWS)
    test = test_views(out / "views", TEST_VIEWS)
    for seed in seeds:
        for arm in ARMS:
            name = f"heads_{TEST_SEED}_{arm.head}_{arm.recipe}_{steps}_{seed}.json"
            _once(out / name, lambda a=arm, s=seed: run_trial(a, s, steps, train, test))


def run_memory(out: Path, seeds: tuple[int, ...]) -> None:
    """Rendered tours through rooms that nobody has seen, with loops switched off: of the network
    alone, then with its poses refined."""
    for refined, seed, chunks, mode in product((False, True), seeds, CHUNKS, MODES):
        file = out / f"memory_{seed}_{chunks}_{mode}{'_refined' if refined else ''}.json"
        _once(file, lambda t=(seed, chunks, mode, refined): [_toured(out, *t)])


def _toured(out: Path, seed: int, chunks: int, mode: str, refined: bool) -> dict[str, Any]:
    folder = tour_folder(out / "tours", seed, chunks)
    schedule, memory = MODES[mode]
    made = out / "maps" / f"{seed}_{chunks}_{mode}_{refined}"
    config = out / f"tours_{refined}.yaml"
    config.write_text(TOUR_SETTINGS % str(refined).lower())
    map_offline(
        OfflineRun(
            source=folder,
            out=made,
            schedule=schedule,
            memory=memory,
            config=config,
            track=False,
            device="cpu",
            precision="fp32",  # not what this processor happens to multiply
            overwrite=True,
        )
    )
    truth = read_trajectory(folder / "groundtruth.txt")
    estimate = read_trajectory(made / "keyframes.txt")
    errors = evaluate(truth, estimate)
    return {
        "seed": seed,
        "chunks": chunks,
        "mode": mode,
        "refined": refined,
        "path_m": errors.path_length,
        "ate_m": errors.ate_rmse,
        "scale_drift": scale_drift(truth, estimate),
    }


def scale_drift(truth: Trajectory, estimate: Trajectory, parts: int = 8) -> float:
    """Spread (standard deviation) of the log scale of pieces of the path, each aligned alone."""
    true, found, _ = associate(truth, estimate)
    pieces = np.array_split(np.arange(len(true)), min(parts, max(len(true) // 8, 1)))
    scales = [umeyama(found[i, :3, 3], true[i, :3, 3], np.ones(len(i))).s for i in pieces]
    return float(np.std(np.log(scales)))


def tour_folder(folder: Path, seed: int, chunks: int) -> Path:
    """Images, times and truth of a tour that makes so many chunks of the nano network."""
    made = folder / f"{seed}_{chunks}"
    if (made / "groundtruth.txt").exists():
        return made
    window = profile("nano").chunks
    frames = window.overlap + chunks * (window.size - window.overlap)
    clip = render_clip(TOUR_SEED + seed, frames, *TOUR_SIZE, family="room", path=tour)
    stamps = [(i + 1) * 10**9 // TOUR_HZ for i in range(frames)]
    write_sequence(made, clip.images.numpy(), clip.T_world_cam.double().numpy(), stamps)
    return made
