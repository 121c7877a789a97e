"""scal3r eval: trajectories and depth against the truth, and simple baselines beside them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="Results against the truth.", no_args_is_help=True)

ROUNDS_SEED = 500_000  # worlds
Json = Annotated[Path | None, typer.Option("--json", help="Write the result as JSON here.")]


def _picture(path: Path | None) -> Path | None:
    """Refuses what OpenCV cannot draw, before anything is computed."""
    if path is not None and path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise typer.BadParameter(f"{path} must end in .png or .jpg")
    return path


Drawing = Annotated[Path | None, typer.Option("--plot", help="A picture.", callback=_picture)]


def _show(result: dict[str, Any], json_path: Path | None) -> None:
    for name, value in result.items():
        shown = f"{value:.5g}" if isinstance(value, float) else value
        typer.echo(f"{name:18s} {shown}")
    if json_path is not None:
        json_path.write_text(json.dumps(result, indent=1) + "\n")


@app.command()
def trajectory(
    truth: Path,
    estimate: Path,
    json_path: Json = None,
    align: Annotated[str, typer.Option(help="sim3, se3 or none")] = "sim3",
) -> None:
    """ATE and relative error of a TUM trajectory."""
    from scal3r_ros.data.tum import read_trajectory
    from scal3r_ros.evaluation.trajectory import evaluate

    errors = evaluate(read_trajectory(truth), read_trajectory(estimate), align)
    _show(errors.as_dict(), json_path)


@app.command()
def depth(
    truth: Annotated[Path, typer.Argument(help="Folder of uint16 PNGs, millimetres, 0 = none.")],
    estimate: Annotated[Path, typer.Argument(help="Folder that `scal3r map --save-depth` wrote.")],
    json_path: Json = None,
) -> None:
    """AbsRel and delta of depth images of the same names, after one scale for the sequence."""
    from scal3r_ros.evaluation.depth_folder import evaluate_folders

    _show(evaluate_folders(truth, estimate), json_path)


@app.command()
def baselines(
    sequence: Path,
    out: Annotated[Path, typer.Option(help="Folder for the trajectories.")],
    topic: Annotated[str, typer.Option(help="Image topic of a bag that has several.")] = "",
) -> None:
    """Trajectories of a constant-velocity guess and of five-point visual odometry."""
    from scal3r_ros.data.sequence import open_sequence
    from scal3r_ros.data.tum import write_trajectory
    from scal3r_ros.evaluation.baselines import constant_velocity, five_point_odometry

    frames = open_sequence(sequence, topic)
    out.mkdir(parents=True, exist_ok=True)
    write_trajectory(out / "five_point.txt", five_point_odometry(frames))
    write_trajectory(out / "constant_velocity.txt", constant_velocity(frames))
    typer.echo(f"wrote {out}/five_point.txt and {out}/constant_velocity.txt")


@app.command()
def refinement(
    sequences: Annotated[list[Path], typer.Argument(help="Folders with a groundtruth.txt.")],
    uncalibrated: Annotated[bool, typer.Option(help="As if nobody knew K.")] = False,
    model: Annotated[str, typer.Option(help="nano or scal3r")] = "nano",
    checkpoint: Annotated[Path | None, typer.Option(help="Weights file.")] = None,
    json_path: Json = None,
    plot: Annotated[Path | None, typer.Option(help="Write a picture.")] = None,
) -> None:
    """Trajectory with and without refinement, from the same predictions, and what it costs."""
    from scal3r_ros.evaluation.ablation import ablate_refinement
    from scal3r_ros.evaluation.plots import draw_ways

    ways: dict[str, dict[str, Any]] = {}

    def judged(folder: Path, network: Any, settings: Any) -> dict[str, Any]:
        there = ways.setdefault(folder.name, {})
        return ablate_refinement(folder, network, settings, there, calibrated=not uncalibrated)

    _for_each(sequences, model, checkpoint, json_path, judged)
    if plot is not None:
        draw_ways(ways, plot)


@app.command()
def odometry(
    sequences: Annotated[list[Path], typer.Argument(help="Folders with a groundtruth.txt.")],
    delays: Annotated[str, typer.Option(help="Images by which keyframes are late.")] = "0,2,4,6,8",
    width: Annotated[int, typer.Option(help="Pixels at which is tracked; 0: the default.")] = 0,
    model: Annotated[str, typer.Option(help="nano or scal3r")] = "nano",
    checkpoint: Annotated[Path | None, typer.Option(help="Weights file.")] = None,
    json_path: Json = None,
    plot: Annotated[Path | None, typer.Option(help="Write a picture.")] = None,
) -> None:
    """Drift, time and honesty of odometry against the network's keyframes, which come late."""
    from scal3r_ros.evaluation.odometry import evaluate_odometry
    from scal3r_ros.evaluation.plots import draw_ways
    from scal3r_ros.tracking.types import TrackerConfig

    if not all(word.isdigit() for word in delays.split(",")):
        raise ValueError(f"whole numbers with commas between them expected, got {delays!r}")
    late = [int(word) for word in delays.split(",")]
    config = TrackerConfig(max_width=width) if width else TrackerConfig()
    ways: dict[str, Any] = {}

    def judged(folder: Path, network: Any, settings: Any) -> dict[str, Any]:
        there = ways.setdefault(folder.name, {})
        return evaluate_odometry(folder, network, settings, config, late, there)

    _for_each(sequences, model, checkpoint, json_path, judged)
    if plot is not None:
        draw_ways(ways, plot)


@app.command()
def loops(
    sequences: Annotated[list[Path], typer.Argument(help="Folders with a groundtruth.txt.")],
    radius: Annotated[float, typer.Option(help="Metres within which a place is the same.")] = 1.0,
    strangers: Annotated[Path | None, typer.Option(help="A sequence of another place.")] = None,
    model: Annotated[str, typer.Option(help="nano or scal3r")] = "nano",
    checkpoint: Annotated[Path | None, typer.Option(help="Weights file.")] = None,
    json_path: Json = None,
    plot: Annotated[Path | None, typer.Option(help="Write a picture.")] = None,
) -> None:
    """Loops that are found and missed, true and false; the camera recognised in its own map."""
    from scal3r_ros.evaluation.loops import (
        evaluate_loops,
        evaluate_relocalisation,
        evaluate_strangers,
    )
    from scal3r_ros.evaluation.plots import draw_bars

    def counts(found: dict[str, Any]) -> dict[str, float]:
        loops, dropped = found["loops"], found["relocalisation"]
        return {
            "loops believed": loops["loops"],
            "true loops": loops["loops true"],
            "chunks that come back": loops["chunks that come back"],
            "tied": loops["chunks tied"],
            "cameras dropped in the map": dropped["in the map"],
            "recognised rightly": dropped["rightly"],
        }

    def judged(folder: Path, network: Any, settings: Any) -> dict[str, Any]:
        found = {
            "loops": evaluate_loops(folder, network, settings, radius),
            "relocalisation": evaluate_relocalisation(folder, network, settings, radius),
        }
        if strangers is not None:
            found["strangers"] = evaluate_strangers(folder, strangers, network, settings)
        return found

    result = _for_each(sequences, model, checkpoint, json_path, judged)
    if plot is not None:
        draw_bars({name: counts(f) for name, f in result.items()}, "how many", plot)


@app.command()
def scale(
    sequences: Annotated[list[Path], typer.Argument(help="Folders with a groundtruth.txt.")],
    camera_height: Annotated[float, typer.Option(help="Metres above the ground; 0: unknown.")] = 0,
    model: Annotated[str, typer.Option(help="nano or scal3r")] = "nano",
    checkpoint: Annotated[Path | None, typer.Option(help="Weights file.")] = None,
    json_path: Json = None,
    plot: Annotated[Path | None, typer.Option(help="Write a picture.")] = None,
) -> None:
    """How well each source tells the metre: odometry and IMU made from the truth; depth and
    right/ where a sequence has them."""
    from scal3r_ros.evaluation.metric_scale import GOAL, OFF, evaluate_scale
    from scal3r_ros.evaluation.plots import draw_bars

    def judged(folder: Path, network: Any, settings: Any) -> dict[str, Any]:
        return evaluate_scale(folder, network, settings, camera_height)

    result = _for_each(sequences, model, checkpoint, json_path, judged)
    if plot is not None:
        told = {
            name: {source: abs(said[OFF]) for source, said in found.items() if OFF in said}
            for name, found in result.items()
        }
        draw_bars(told, "metre off, %; missing: not metric", plot, goal=GOAL)


@app.command()
def filters(
    sequence: Annotated[Path, typer.Argument(help="Folder; with depth/ it is judged by that.")],
    model: Annotated[str, typer.Option(help="nano or scal3r")] = "nano",
    checkpoint: Annotated[Path | None, typer.Option(help="Weights file.")] = None,
    json_path: Json = None,
    plot: Drawing = None,
) -> None:
    """What the map's filters take away: wrong points, or right ones?"""
    from scal3r_ros.evaluation.filters import evaluate_filters

    def judged(folder: Path, network: Any, settings: Any) -> dict[str, Any]:
        return evaluate_filters(folder, network, settings, plot)

    _for_each([sequence], model, checkpoint, json_path, judged)


@app.command()
def grid(
    sequences: Annotated[list[Path], typer.Argument(help="Folders: depth/, groundtruth.txt.")],
    model: Annotated[str, typer.Option(help="nano or scal3r")] = "nano",
    checkpoint: Annotated[Path | None, typer.Option(help="Weights file.")] = None,
    json_path: Json = None,
    plot: Drawing = None,
) -> None:
    """The occupancy grid, against the one that a depth sensor and the true poses give."""
    from scal3r_ros.evaluation.grid import evaluate_grid

    def judged(folder: Path, network: Any, settings: Any) -> dict[str, Any]:
        return evaluate_grid(folder, network, settings, plot)

    _for_each(sequences, model, checkpoint, json_path, judged)


@app.command()
def rounds(
    out: Annotated[Path, typer.Argument(help="Folder of the sequence.")],
    seed: Annotated[int, typer.Option(help="Of the room; trained on are others.")] = 1,
    images: Annotated[int, typer.Option(help="180 a round, at 10 Hz.")] = 400,
    baseline: Annotated[
        float, typer.Option(help="Metres to a right camera: right/ and depth/ as well; 0: none.")
    ] = 0.0,
) -> None:
    """Render a walk round and round a room, with its truth: places to recognise."""
    from scal3r_ros.training.rendered_sequence import render_rounds

    render_rounds(out, ROUNDS_SEED + seed, images, baseline)
    typer.echo(f"{images} images: {out}")


def _for_each(
    sequences: list[Path],
    model: str,
    checkpoint: Path | None,
    json_path: Path | None,
    judged: Callable[[Path, Any, Any], dict[str, Any]],
) -> dict[str, Any]:
    """What is found in every sequence by a fresh network with its usual settings, as JSON."""
    from scal3r_ros.mapping.config import profile
    from scal3r_ros.mapping.predictor import NetworkPredictor

    result = {}
    for folder in sequences:
        network = NetworkPredictor.load(model, checkpoint)
        result[folder.name] = judged(folder, network, profile(model))
        typer.echo(f"{folder.name}\n{json.dumps(result[folder.name], indent=1)}")
    if json_path is not None:
        json_path.write_text(json.dumps(result, indent=1) + "\n")
    return result


@app.command()
def world(
    weights: Annotated[Path, typer.Argument(help="Weights, .safetensors")],
    json_path: Json = None,
    clips: Annotated[int, typer.Option(help="Clips of each family.")] = 4,
) -> None:
    """Depth and poses of the bare network on procedural worlds that training never sees."""
    from scal3r_ros.training.validate import validate

    _show(validate(weights, clips), json_path)


@app.command()
def claims(
    out: Annotated[Path, typer.Option(help="Folder for runs; what is there is not run again.")],
    parts: Annotated[str, typer.Option(help="heads, memory, filters")] = "heads,memory,filters",
    seeds: Annotated[str, typer.Option(help="Of the runs, with commas.")] = "1,2,3",
    steps: Annotated[int, typer.Option(help="Training steps of one head.")] = 6000,
    report: Annotated[Path | None, typer.Option(help="Page to write, beside a picture.")] = None,
    report_only: Annotated[bool, typer.Option(help="Run nothing.")] = False,
) -> None:
    """Does a mixture sharpen depth, does memory reduce drift? Trains and maps for hours."""
    from scal3r_ros.claims import report as write_page
    from scal3r_ros.claims import run_claims

    if not report_only:
        run_claims(out, tuple(parts.split(",")), tuple(int(s) for s in seeds.split(",")), steps)
    write_page(out, report or out / "claims.md")
