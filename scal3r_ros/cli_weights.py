"""scal3r weights: what a weights file holds, whether it is the official network, conversion."""

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Weights files: info, verify, manifest, convert, download, words.")

LICENCES = (
    "The published Scal3R weights are a fine-tune of VGGT-1B, whose own licence is restrictive "
    "(non-commercial). Check the model card of the weights before you use them."
)
REPOSITORY, FILE = "xbillowy/Scal3R", "scal3r.pt"

Json = Annotated[Path | None, typer.Option("--json", help="Write the result as JSON here.")]


def _write_json(path: Path | None, content: object) -> None:
    if path is not None:
        path.write_text(json.dumps(content, indent=1) + "\n")


@app.command()
def verify(folder: Path, json_path: Json = None) -> None:
    """Worst relative error of every output against stored official numbers; 1 above 1e-4."""
    from scal3r_ros.network.verify import TOLERANCE, verify

    errors = verify(folder)
    for name, error in errors.items():
        typer.echo(f"{name:28s} {error:.2e}  {'ok' if error <= TOLERANCE else 'DIFFERS'}")
    _write_json(json_path, errors)
    if not all(error <= TOLERANCE for error in errors.values()):
        raise typer.Exit(1)


@app.command()
def manifest(
    model: Annotated[str, typer.Option(help="scal3r or nano")] = "scal3r", json_path: Json = None
) -> None:
    """Official name, shape and dtype of every tensor, as JSON; nothing is allocated."""
    import torch

    from scal3r_ros.network.checkpoint import official_name
    from scal3r_ros.network.scal3r import Scal3R, Scal3RConfig

    sizes = {"scal3r": Scal3RConfig.scal3r, "nano": Scal3RConfig.nano}
    if model not in sizes:
        raise typer.BadParameter(f"model must be one of {list(sizes)}, got {model}")
    with torch.device("meta"):
        state = Scal3R(sizes[model]()).state_dict()
    rows = [
        {
            "name": official_name(name),
            "shape": list(tensor.shape),
            "dtype": str(tensor.dtype).removeprefix("torch."),
        }
        for name, tensor in state.items()
    ]
    typer.echo(json.dumps(rows, indent=1))
    _write_json(json_path, rows)


@app.command()
def info(file: Path, json_path: Json = None) -> None:
    """What a file holds: tensors, parameters, types, and which network it fits."""
    from scal3r_ros.network.checkpoint import describe, read_tensors

    facts = describe(*read_tensors(file))
    for name, value in facts.items():
        typer.echo(f"{name:12s} {value}")
    _write_json(json_path, facts)


@app.command()
def convert(
    source: Path,
    target: Path,
    dtype: Annotated[str, typer.Option(help="fp32, fp16 or bf16")] = "bf16",
    to_official: Annotated[bool, typer.Option(help="Write the official names.")] = False,
) -> None:
    """From one file form to another: official .pt or .safetensors to ours, or back."""
    from scal3r_ros.network.checkpoint import convert

    convert(source, target, dtype, to_official)
    typer.echo(f"wrote {target}")


@app.command()
def download(
    folder: Annotated[Path, typer.Option(help="Where the file goes.")] = Path("checkpoints"),
    yes: Annotated[bool, typer.Option("--yes", help="I have read the licence.")] = False,
) -> None:
    """The published checkpoint, through huggingface_hub; a broken download is continued."""
    typer.echo(LICENCES)
    if not yes:
        typer.confirm("Download about 5 GB under these terms?", abort=True)
    from scal3r_ros.download import download

    typer.echo(f"wrote {download(REPOSITORY, FILE, folder)}")


@app.command()
def words(
    out: Annotated[Path, typer.Argument(help="Where to write the vocabulary, .npy.")],
    count: Annotated[int, typer.Option(help="Words.")] = 32,
    clips: Annotated[int, typer.Option(help="Rendered clips of six images, of each family.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the first world.")] = 31_000,
) -> None:
    """Learn the words by which places are told apart, on the procedural world."""
    import numpy as np
    from tqdm import tqdm

    from scal3r_ros.mapping.place_words import learn_words
    from scal3r_ros.training.scenes import FAMILIES
    from scal3r_ros.training.world import render_clip

    worlds = [(seed + i, family) for i in range(clips) for family in FAMILIES]
    images = [
        image
        for world, family in tqdm(worlds)
        for image in render_clip(world, 6, 240, 320, family=family, stride=1.5).images.numpy()
    ]
    np.save(out, learn_words(images, count, seed).astype(np.float16))
    typer.echo(f"{count} words from {len(images)} images: {out}")
