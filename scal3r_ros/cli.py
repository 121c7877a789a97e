"""scal3r: the command line. Bad input ends with one clear line and exit code 2."""

import json
import logging
import sys
from pathlib import Path
from typing import Annotated

try:
    import typer
except ModuleNotFoundError as missing:
    print(f"scal3r: {missing}: see `python -m scal3r_ros.doctor`", file=sys.stderr)
    sys.exit(2)

from scal3r_ros.cli_bench import app as bench_app
from scal3r_ros.cli_eval import app as eval_app
from scal3r_ros.cli_weights import app as weights_app

app = typer.Typer(
    help="Online mapping from one moving camera.", no_args_is_help=True, add_completion=False
)
app.add_typer(eval_app, name="eval")
app.add_typer(bench_app, name="bench")
app.add_typer(weights_app, name="weights")

Device = Annotated[str, typer.Option(help="auto, cpu or cuda:N")]


def main() -> None:
    """Entry point: turns the errors that input can cause into one line."""
    try:
        code = app(standalone_mode=False)  # what typer.Exit carried, or None
        sys.exit(code if isinstance(code, int) else 0)
    except typer.Abort:
        sys.exit(130)
    except KeyboardInterrupt:
        sys.exit(130)
    except ModuleNotFoundError as error:
        print(f"scal3r: {error}: see `scal3r doctor`", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        if isinstance(error, (ValueError, OSError)) or _is_usage(error):
            told = getattr(error, "format_message", error.__str__)  # typer's names the option
            print(f"scal3r: {told()}", file=sys.stderr)
            sys.exit(2)
        raise


def _is_usage(error: Exception) -> bool:
    """Whether typer itself refused the arguments."""
    return any(kind.__name__ in ("UsageError", "ClickException") for kind in type(error).__mro__)


def _print_version(wanted: bool) -> None:
    if wanted:
        from scal3r_ros.evaluation.report import versions

        typer.echo(versions()["scal3r_ros"])
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print it.", is_eager=True, callback=_print_version)
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="One line per chunk.")] = False,
) -> None:
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")
    if context.invoked_subcommand != "doctor":  # which tells what is missing
        from scal3r_ros.mapping.process import one_blas_thread, steady_heap

        steady_heap()
        one_blas_thread()


@app.command("map")
def map_command(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="Images, video or rosbag2.")],
    out: Annotated[Path, typer.Option(help="Folder for the results.")],
    model: Annotated[str, typer.Option(help="nano or scal3r")] = "nano",
    checkpoint: Annotated[Path | None, typer.Option(help="Weights file.")] = None,
    schedule: Annotated[str, typer.Option(help="causal, offline or parallel")] = "causal",
    memory: Annotated[bool, typer.Option(help="Carry the memory from chunk to chunk.")] = True,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the memory.safetensors of an earlier map.")
    ] = None,
    compile: Annotated[
        str | None, typer.Option(help="torch.compile: off, on, auto (the faster here).")
    ] = None,
    depth_head: Annotated[str, typer.Option(help="auto (as the file has), moe, dpt")] = "auto",
    config: Annotated[Path | None, typer.Option(help="YAML settings of the mapper.")] = None,
    scale_source: Annotated[
        str, typer.Option(help="depth or stereo, of a folder that has depth/ or right/.")
    ] = "",
    device: Device = "auto",
    precision: Annotated[
        str, typer.Option(help="auto (half where the device multiplies it), fp32, fp16, bf16")
    ] = "auto",
    topic: Annotated[str, typer.Option(help="Image topic of a bag that has several.")] = "",
    track: Annotated[bool, typer.Option(help="A pose for every image by the tracker.")] = True,
    save_depth: Annotated[bool, typer.Option(help="Write every keyframe's depth.")] = False,
    mesh: Annotated[bool, typer.Option(help="Write the surface too, mesh.ply.")] = False,
    view: Annotated[bool, typer.Option(help="Watch the map grow (needs rerun-sdk).")] = False,
    overwrite: Annotated[bool, typer.Option(help="Write into a folder with results.")] = False,
) -> None:
    """Map a sequence without ROS, through the same mapper and tracker as the nodes."""
    from scal3r_ros.offline import OfflineRun, run

    report = run(
        OfflineRun(
            source=source,
            out=out,
            model=model,
            checkpoint=checkpoint,
            schedule=schedule,
            memory=memory,
            resume=resume,
            compile=compile,
            depth_head=depth_head,
            config=config,
            scale_source=scale_source,
            device=device,
            precision=precision,
            topic=topic,
            track=track,
            save_depth=save_depth,
            mesh=mesh,
            view=view,
            overwrite=overwrite,
        )
    )
    if not report:
        return  # a helper of the parallel schedule
    from scal3r_ros.evaluation.report import summary

    typer.echo(summary(report))
    picture = out / "map.png"
    shown = f"   picture: {picture}" if picture.exists() else ""
    typer.echo(f"  map: {out / 'map.ply'}{shown}")
    if report["interrupted"]:
        raise typer.Exit(130)


@app.command()
def replay(
    bag: Annotated[Path, typer.Argument(metavar="BAG", help="rosbag2, sqlite3 or MCAP.")],
    out: Annotated[Path, typer.Option(help="Folder for the results.")],
    topic: Annotated[str, typer.Option(help="Image topic of a bag that has several.")] = "",
    remap: Annotated[
        list[str] | None, typer.Option(help="ROLE:=TOPIC, e.g. odom:=/wheel/odometry")
    ] = None,
    params_file: Annotated[Path | None, typer.Option(help="ROS parameter file.")] = None,
    param: Annotated[
        list[str] | None, typer.Option("--param", "-p", help="NAME:=VALUE of mapping_node")
    ] = None,
    images: Annotated[int, typer.Option(help="Stop after this many images; 0: all.", min=0)] = 0,
    overwrite: Annotated[bool, typer.Option(help="Write into a folder with results.")] = False,
) -> None:
    """Map a bag as the nodes would, in lock-step: no image dropped, the same result every time."""
    from scal3r_ros.ros.replay import ReplayOptions, replay

    done = replay(
        ReplayOptions(
            bag, out, topic, tuple(remap or ()), params_file, tuple(param or ()), images, overwrite
        )
    )
    typer.echo("  ".join(f"{name} {value}" for name, value in done.items()))
    typer.echo(
        f"  map: {out / 'map.ply'}   bag: {out / 'bag'}   trajectory: {out / 'trajectory.txt'}"
    )


@app.command()
def train(
    config: Annotated[Path | None, typer.Option(help="YAML settings of the run.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for weights and log.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Wall time of the whole run.")] = None,
    finetune_moe: Annotated[
        bool, typer.Option("--finetune-moe", help="Only the depth head, as a mixture of experts.")
    ] = False,
    checkpoint: Annotated[Path | None, typer.Option(help="Weights to start from.")] = None,
    data: Annotated[
        list[Path] | None, typer.Option(help="Sequence folder with depth/; may be repeated.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda:N; empty: as the settings say")] = "",
) -> None:
    """Train on the procedural world, or the depth head on RGB-D folders; continues where it
    stopped. With torchrun on several GPUs."""
    from scal3r_ros.mapping.config import load_config
    from scal3r_ros.training.settings import TrainConfig, finetuning, with_options
    from scal3r_ros.training.train import train as run_training

    base = TrainConfig()
    if finetune_moe:
        if checkpoint is None or not data:
            raise typer.BadParameter("--finetune-moe needs --checkpoint and at least one --data")
        base = finetuning(base)
    elif config is None:
        raise typer.BadParameter("--config is needed, or --finetune-moe")
    settings = load_config(config, base) if config is not None else base
    settings = with_options(settings, out, minutes, checkpoint, data or [], device)
    typer.echo(f"weights: {run_training(settings)}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("out/demo"),
    sequence: Annotated[Path, typer.Option(help="Sequence folder.")] = Path("examples/office"),
    rate: Annotated[float, typer.Option(help="Playback rate against real time.")] = 0.0,
    frames: Annotated[int, typer.Option(help="Stop after this many images; 0: all.", min=0)] = 0,
) -> None:
    """Publish a sequence over ROS 2, map it with the three nodes, record and show the result."""
    from scal3r_ros.ros.demo import run_demo

    raise typer.Exit(run_demo(sequence, out, rate=rate, frames=frames))


@app.command()
def doctor(
    json_path: Annotated[Path | None, typer.Option("--json", help="Write as JSON.")] = None,
    image: Annotated[str, typer.Option(help="Look at a running camera: its image topic.")] = "",
    base_frame: Annotated[str, typer.Option(help="Frame of the robot, e.g. base_link.")] = "",
    use_sim_time: Annotated[bool, typer.Option(help="As the nodes are started.")] = False,
    seconds: Annotated[float, typer.Option(help="How long to listen.")] = 4.0,
) -> None:
    """Check what the package needs, and a running camera; name the remedy for what is wrong."""
    from scal3r_ros.doctor import diagnose

    findings = diagnose()
    if image:
        from scal3r_ros.ros.examine import examine

        findings += examine(image, base_frame, use_sim_time=use_sim_time, seconds=seconds)
    for finding in findings:
        typer.echo(str(finding))
    if json_path is not None:
        json_path.write_text(json.dumps([vars(f) for f in findings], indent=1) + "\n")
    if not all(f.ok for f in findings):
        raise typer.Exit(1)


if __name__ == "__main__":
    main()
