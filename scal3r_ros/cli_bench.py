"""scal3r bench: speed and memory on this machine."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="Speed and memory on this machine.")


@app.callback()
def group() -> None:
    """Keeps each benchmark a command of its own."""


@app.command(
    context_settings={
        "ignore_unknown_options": True,
        "allow_extra_args": True,
        "help_option_names": [],
    }
)
def network(context: typer.Context) -> None:
    """Milliseconds per chunk by stage, new keyframes a second, share of the device's peak."""
    from scal3r_ros.network.bench import main

    main(context.args)


@app.command()
def ros(
    seconds: Annotated[float, typer.Option(help="Measured, after warming up.")] = 300.0,
    rate: Annotated[float, typer.Option(help="Images a second.")] = 30.0,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT")] = "640x480",
    compressed: Annotated[bool, typer.Option(help="JPEG instead of raw images.")] = False,
    robots: Annotated[int, typer.Option(help="Robots, each in its namespace.")] = 1,
    sequence: Annotated[Path, typer.Option(help="Sequence folder.")] = Path("examples/office"),
    json_path: Annotated[Path | None, typer.Option("--json", help="Write as JSON.")] = None,
) -> None:
    """The nodes under load over DDS: odometry per image, latency, memory, drops."""
    from scal3r_ros.data.sequence import open_sequence
    from scal3r_ros.ros.bench import Load, run_load, table

    height, width = _size(size)
    open_sequence(sequence)  # what is wrong with it is said before the nodes are started
    load = Load(seconds, rate, width, height, compressed, robots, str(sequence))
    result = run_load(load)
    typer.echo(table(result))
    if json_path is not None:
        json_path.write_text(json.dumps(result, indent=1) + "\n")


def _size(text: str) -> tuple[int, int]:
    """(height, width)"""
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise ValueError(f"size must be WIDTHxHEIGHT, got {text}")
    return int(height), int(width)


@app.command()
def tracker(
    sequence: Annotated[Path, typer.Option(help="Sequence folder with depth and truth.")],
    width: Annotated[int, typer.Option(help="Pixels at which is tracked; 0: the default.")] = 0,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT of the images; empty: their own.")] = "",
    json_path: Annotated[Path | None, typer.Option("--json", help="Write as JSON.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a picture.")] = None,
) -> None:
    """Drift, time an image and honesty of the covariance, beside OpenCV's RGB-D odometry."""
    from scal3r_ros.evaluation.plots import draw_ways
    from scal3r_ros.evaluation.tracking import track_with_depth
    from scal3r_ros.tracking.types import TrackerConfig

    config = TrackerConfig(max_width=width) if width else TrackerConfig()
    ways: dict[str, Any] = {}
    result = track_with_depth(sequence, config, _size(size) if size else None, ways)
    _tell(result, json_path)
    if plot is not None:
        draw_ways({sequence.name: ways}, plot)


@app.command()
def memory(
    frames: Annotated[int, typer.Option(help="Images, at 10 Hz.", min=100)] = 10000,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write as JSON.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a picture.")] = None,
) -> None:
    """Does host memory stay flat? Thousands of images, the network simulated."""
    from scal3r_ros.evaluation.long_run import long_run
    from scal3r_ros.evaluation.plots import draw_long_run
    from scal3r_ros.mapping.config import profile

    result = long_run(frames, profile("nano"))
    _tell(result, json_path)
    if plot is not None:
        draw_long_run(result, plot)


def _tell(result: dict, json_path: Path | None) -> None:
    text = json.dumps(result, indent=1)
    typer.echo(text)
    if json_path is not None:
        json_path.write_text(text + "\n")


@app.command()
def backend(
    poses: Annotated[Path | None, typer.Option(help="Folder of KITTI or TUM pose files.")] = None,
    stored: Annotated[
        Path | None, typer.Option(help="Folder of graphs that the official program solved.")
    ] = None,
    levels: Annotated[str, typer.Option(help="Errors of the chunks, times the usual.")] = "0.5,1,2",
    false_loops: Annotated[str, typer.Option(help="Shares of all loops.")] = "0,0.1,0.2,0.4",
    seed: Annotated[int, typer.Option(help="Of the simulation.")] = 0,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write as JSON.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a picture.")] = None,
) -> None:
    """Kilometres, simulated: our back end beside the published ways, on identical chunks."""
    from scal3r_ros.evaluation.backend import sweep, table
    from scal3r_ros.evaluation.plots import draw_backend
    from scal3r_ros.evaluation.stored_graphs import read_graphs, solve_graphs

    if (poses is None) == (stored is None):
        raise ValueError("either --poses or --stored is needed")
    if poses is None:
        from safetensors.numpy import load_file

        assert stored is not None
        ring, chunks = load_file(stored / "pgo.safetensors"), (stored / "loop.json").read_text()
        _tell(solve_graphs(read_graphs(ring, json.loads(chunks))), json_path)
        return
    result = sweep(poses, _numbers(levels), _numbers(false_loops), seed)
    typer.echo(table(result))
    if json_path is not None:
        json_path.write_text(json.dumps(result, indent=1) + "\n")
    if plot is not None:
        draw_backend(result, plot)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError as error:
        raise ValueError(f"numbers with commas between them expected, got {text!r}") from error


@app.command()
def registration(
    stored: Annotated[
        Path | None, typer.Option(help="sim3_align.safetensors of the official program.")
    ] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write as JSON.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a picture.")] = None,
) -> None:
    """Two chunks to one: errors beside the published fit (degrees, % of depth, of scale), time."""
    from safetensors.numpy import load_file

    from scal3r_ros.evaluation.plots import draw_bars
    from scal3r_ros.evaluation.registration_bench import bench_registration

    result = bench_registration(load_file(stored) if stored else None)
    _tell(result, json_path)
    if plot is not None:
        cases = {n: {way: e[1] for way, e in case.items()} for n, case in result["cases"].items()}
        draw_bars(cases, "scene's middle off, % of depth", plot, logarithmic=True)


@app.command()
def world(
    device: Annotated[str, typer.Option(help="cpu or cuda:N")] = "cpu",
    photographs: Annotated[
        Path | None, typer.Option(help="Folder of pictures that surfaces may show.")
    ] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write as JSON.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a contact sheet.")] = None,
) -> None:
    """Frames a second of the procedural world that networks are trained on."""
    from scal3r_ros.network.devices import choose_device
    from scal3r_ros.training.contact_sheet import frames_per_second, write_contact_sheet

    _tell(frames_per_second(str(choose_device(device))), json_path)
    if plot is not None:
        write_contact_sheet(plot, 6, photographs)
