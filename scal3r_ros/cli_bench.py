"""scal3r bench: speed and memory on this machine."""

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Speed and memory on this machine.")


@app.callback()
def group() -> None:
    """Keeps `network` a command of its own."""


@app.command()
def network(
    model: Annotated[str, typer.Option(help="nano or scal3r")] = "scal3r",
    size: Annotated[list[str] | None, typer.Option(help="WIDTHxHEIGHT, several times.")] = None,
    window: Annotated[list[str] | None, typer.Option(help="FRAMES/OVERLAP.")] = None,
    precision: Annotated[list[str] | None, typer.Option(help="fp32, bf16 or fp16")] = None,
    depth_head: Annotated[str, typer.Option(help="dpt or moe")] = "dpt",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda:N")] = "auto",
    repeats: Annotated[int, typer.Option(min=1)] = 5,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write it here too.")] = None,
) -> None:
    """Milliseconds per chunk by stage, new keyframes a second, share of the device's peak."""
    from dataclasses import replace

    from scal3r_ros.mapping.predictor import choose_device
    from scal3r_ros.network import bench
    from scal3r_ros.network.scal3r import Scal3RConfig

    known = {"nano": Scal3RConfig.nano, "scal3r": Scal3RConfig.scal3r}
    if model not in known:
        raise ValueError(f"model must be one of {list(known)}, got {model}")
    config = replace(known[model]().with_head(depth_head), point_head=False)
    where = choose_device(device)
    typer.echo(bench.table_line(None))
    rows = bench.bench(
        config,
        tuple(_pair(s, "x") for s in size) if size else bench.SIZES,
        tuple(_pair(w, "/") for w in window) if window else bench.WINDOWS,
        device=where,
        precisions=tuple(precision or ()),
        repeats=repeats,
        on_row=lambda row: typer.echo(bench.table_line(row)),
    )
    if json_path is not None:
        json_path.write_text(json.dumps(bench.report(rows, where), indent=1) + "\n")


def _pair(text: str, between: str) -> tuple[int, int]:
    parts = text.split(between)
    if len(parts) != 2 or not all(p.isdigit() for p in parts):
        raise ValueError(f"expected two numbers with {between} between them, got {text}")
    return int(parts[0]), int(parts[1])
