"""Weights and images from a seed, the same on every machine: what the stored official outputs of
`official.safetensors` were computed with."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from scal3r_ros.network.scal3r import Scal3RConfig

SIZE = replace(
    Scal3RConfig.scal3r(),
    dim=64,
    heads=1,
    encoder_dim=64,
    encoder_depth=2,
    depth=4,
    memory_layers=(2, 3),
    taps=(0, 1, 2, 3),
    camera_depth=1,
    camera_heads=2,
    head_features=16,
    head_channels=(8, 12, 16, 20),
)
FRAMES, HEIGHT, WIDTH = 3, 42, 56


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """For the official names, in their alphabetical order."""
    random = np.random.RandomState(20261121)  # its stream never changes, by numpy's promise
    return {name: _tensor(name, shapes[name], random) for name in sorted(shapes)}


def _tensor(name: str, shape: tuple[int, ...], random: np.random.RandomState) -> Tensor:
    values = random.standard_normal(shape)
    if name.endswith("norm.weight") or name.rsplit(".", 2)[-2][:4] == "norm":
        values = 1 + 0.1 * values if name.endswith("weight") else 0.1 * values
    elif len(shape) > 1:
        values /= np.prod(shape[1:]) ** 0.5
    else:
        values *= 0.1
    return torch.from_numpy(values.astype(np.float32))


def chunks() -> list[Tensor]:
    """RGB of two chunks (1, s, 3, h, w), the reference frame first."""
    random = np.random.RandomState(3)
    shape = (1, FRAMES, 3, HEIGHT, WIDTH)
    return [torch.from_numpy(random.uniform(size=shape).astype(np.float32)) for _ in range(2)]


def official_settings() -> dict:
    """SIZE as the official configuration spells it."""
    dense = {"features": SIZE.head_features, "out_channels": list(SIZE.head_channels)}
    return {
        "cfg": {
            "agg_regator_cfg": {
                "embed_dim": SIZE.dim,
                "num_heads": SIZE.heads,
                "depth": SIZE.depth,
                "ttt_layer_idx": list(SIZE.memory_layers),
                "intermediate_layer_idx": list(SIZE.taps),
            },
            "cam_decoder_cfg": {
                "trunk_depth": SIZE.camera_depth,
                "num_heads": SIZE.camera_heads,
            },
            "dpt_decoder_cfg": dense,
            "xyz_decoder_cfg": dense,
        },
        "dino": {
            "embed_dim": SIZE.encoder_dim,
            "depth": SIZE.encoder_depth,
            "img_size": SIZE.position_grid * SIZE.patch,
            "patch_size": SIZE.patch,
        },
    }
