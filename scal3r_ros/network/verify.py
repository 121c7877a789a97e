"""Is our network the official one? Compares outputs with numbers stored by the official program.

A folder holds `config.json` (`cfg` as the official config spells it, `dino` the encoder's size),
`weights.safetensors` (official names), `inputs.safetensors` (`cK.rgb` (1,S,H*W,3) in slot order,
reference frame first; `cK.HW`) and `outputs.safetensors` with any of `offline.cK.*` (gradients
of all chunks summed), `prefix1.c0.*` (memory of the first chunk) and `prefix2.cK.*` (of the first
two).
"""

import json
from dataclasses import replace
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from scal3r_ros.network.checkpoint import (
    CheckpointError,
    from_official,
    load_weights,
    read_tensors,
)
from scal3r_ros.network.scal3r import ChunkImages, ChunkOutput, Scal3R, Scal3RConfig

TOLERANCE = 1e-4  # relative to the largest value of an output
FILES = ("config.json", "weights.safetensors", "inputs.safetensors", "outputs.safetensors")
SCHEDULES = {"offline": None, "prefix1": 1, "prefix2": 2}  # chunks whose gradients are summed


def verify(folder: Path) -> dict[str, float]:
    """Worst error of every stored output, relative to that output's largest magnitude."""
    for name in FILES:
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} must hold {', '.join(FILES)}; {name} is missing")
    try:
        model = Scal3R(official_config(json.loads((folder / "config.json").read_text()))).eval()
    except KeyError as error:
        raise CheckpointError(f"{folder}/config.json lacks {error}") from error
    weights, inputs, expected = (read_tensors(folder / name)[0] for name in FILES[1:])
    load_weights(model, from_official(weights, model))
    chunks = read_chunks(inputs)
    errors: dict[str, float] = {}
    for schedule, count in SCHEDULES.items():
        stored = {n: t for n, t in expected.items() if n.startswith(f"{schedule}.")}
        if not stored:
            continue
        for index, output in enumerate(run(model, chunks, count)):
            for name, ours in official_outputs(output).items():
                key = f"{schedule}.c{index}.{name}"
                if key in stored:
                    errors[key] = relative_error(ours, stored[key])
    if not errors:
        raise CheckpointError(f"{folder}/outputs.safetensors holds none of {list(SCHEDULES)}")
    return errors


@torch.inference_mode()
def run(model: Scal3R, chunks: list[ChunkImages], count: int | None) -> list[ChunkOutput]:
    """Outputs of the first `count` chunks (all: None), which share one memory of just these."""
    return model(chunks[:count], None, with_points=model.point_head is not None)[0]


def read_chunks(inputs: dict[str, Tensor]) -> list[ChunkImages]:
    chunks: list[ChunkImages] = []
    while f"c{len(chunks)}.rgb" in inputs:
        height, width = inputs[f"c{len(chunks)}.HW"].flatten().tolist()
        rgb = inputs[f"c{len(chunks)}.rgb"]
        images = rearrange(rgb, "b s (h w) c -> b s c h w", h=height, w=width)
        chunks.append(ChunkImages(images.float(), reference=0))
    return chunks


def official_outputs(output: ChunkOutput) -> dict[str, Tensor]:
    """Our outputs under the official names and shapes."""
    flat = {
        "cam_map": output.encodings[-1],
        "dpt_map": rearrange(output.depth, "b s h w -> b s (h w) 1"),
        "dpt_cnf": rearrange(output.confidence, "b s h w -> b s (h w) 1"),
    }
    if output.points is not None and output.points_confidence is not None:
        flat["xyz_map"] = rearrange(output.points, "b s h w c -> b s (h w) c")
        flat["xyz_cnf"] = rearrange(output.points_confidence, "b s h w -> b s (h w) 1")
    return flat


def relative_error(ours: Tensor, truth: Tensor) -> float:
    if ours.shape != truth.shape:
        return float("inf")
    difference = (ours.detach().double() - truth.double()).abs().max()
    return float(difference / truth.double().abs().max().clamp_min(1e-12))


def official_config(settings: dict) -> Scal3RConfig:
    """Our sizes from an official configuration."""
    cfg, dino = settings["cfg"], settings["dino"]
    aggregator, camera = cfg["agg_regator_cfg"], cfg["cam_decoder_cfg"]
    dense = cfg["dpt_decoder_cfg"]
    return replace(
        Scal3RConfig.scal3r(),
        dim=aggregator["embed_dim"],
        heads=aggregator["num_heads"],
        depth=aggregator["depth"],
        encoder_dim=dino["embed_dim"],
        encoder_depth=dino["depth"],
        patch=dino["patch_size"],
        position_grid=dino["img_size"] // dino["patch_size"],
        memory_layers=tuple(aggregator["ttt_layer_idx"]),
        taps=tuple(aggregator["intermediate_layer_idx"]),
        camera_depth=camera["trunk_depth"],
        camera_heads=camera["num_heads"],
        head_features=dense["features"],
        head_channels=tuple(dense["out_channels"]),
        point_head="xyz_decoder_cfg" in cfg,
    )
