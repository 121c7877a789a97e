"""A memory on disk: stored with a map, resumed where the mapping goes on."""

import hashlib
from dataclasses import fields
from pathlib import Path

import torch
from torch import Tensor

from scal3r_ros.network.checkpoint import CheckpointError, read_tensors, write_tensors
from scal3r_ros.network.memory import FastWeights, GlobalContext
from scal3r_ros.network.scal3r import Scal3R

PARTS = tuple(f.name for f in fields(FastWeights))


def save_context(path: Path, context: GlobalContext, model: Scal3R) -> None:
    """The summed gradients, in float32, with what they belong to; complete or not there at all."""
    sums = {"sum": context.gradients, **{f"recent{i}": g for i, g in enumerate(context.recent)}}
    tensors = {
        f"{name}.{layer}.{part}": getattr(weights, part).to("cpu", copy=True)  # some are the same
        for name, layers in sums.items()
        for layer, weights in enumerate(layers)
        for part in PARTS
    }
    facts = {
        "chunks": str(context.chunks),
        "recent": str(len(context.recent)),
        "weights": fingerprint(model),
    }
    write_tensors(path, tensors, facts)


def load_context(path: Path, model: Scal3R) -> GlobalContext:
    """On the model's device. Gradients mean something only to the weights that they were taken
    at: a memory of other weights is refused with CheckpointError."""
    tensors, facts = read_tensors(path)
    if not {"chunks", "recent", "weights"} <= set(facts):
        raise CheckpointError(f"{path} is not a stored memory")
    if facts["weights"] != fingerprint(model):
        raise CheckpointError(f"{path} was written by a network with other weights")
    device = model.aggregator.camera_token.device
    layers = range(len(model.config.memory_layers)) if int(facts["chunks"]) else range(0)

    def read(name: str) -> tuple[FastWeights, ...]:
        try:
            return tuple(
                FastWeights(*(tensors[f"{name}.{layer}.{part}"].to(device) for part in PARTS))
                for layer in layers
            )
        except KeyError as error:
            raise CheckpointError(f"{path} lacks {error}") from error

    recent = tuple(read(f"recent{i}") for i in range(int(facts["recent"])))
    return GlobalContext(read("sum"), int(facts["chunks"]), recent)


def fingerprint(model: Scal3R) -> str:
    """Of the memory layers' weights, whatever precision the blocks are stored in."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.aggregator.memories.state_dict().items()):
        digest.update(name.encode() + _bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes()
