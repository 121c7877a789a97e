"""Weights on disk: official names and ours, strict loading, safetensors and `scal3r.pt`."""

import json
import logging
import re
from dataclasses import asdict, fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from scal3r_ros.network.devices import PRECISIONS
from scal3r_ros.network.memory import AdaptiveMemoryUnit
from scal3r_ros.network.scal3r import Scal3R, Scal3RConfig

logger = logging.getLogger(__name__)

CONFIG_KEY = "scal3r_ros.config"  # metadata of our own files: the sizes as JSON

# (ours, official): the only table between the two. Order matters: prefixes first.
PREFIXES = (
    ("aggregator.encoder.patch_embed.", "agg_regator.patch_embed.patch_embed.proj."),
    ("aggregator.encoder.", "agg_regator.patch_embed."),
    ("aggregator.", "agg_regator."),
    ("camera_head.", "cam_decoder."),
    ("depth_head.", "dpt_decoder."),
    ("point_head.", "xyz_decoder."),
)
VGGT_PREFIXES = (
    ("agg_regator.", "aggregator."),
    ("cam_decoder.", "camera_head."),
    ("dpt_decoder.", "depth_head."),
    ("xyz_decoder.", "point_head."),
)
BLOCK_NAMES = ((".attention.", ".attn."), (".scale1.", ".ls1."), (".scale2.", ".ls2."))
CAMERA_NAMES = (
    ("cam_decoder.empty_pose", "cam_decoder.empty_pose_tokens"),
    ("cam_decoder.modulation.", "cam_decoder.poseLN_modulation.1."),
)
DENSE_NAMES = (
    ("trunk.norm.", "norm."),
    ("trunk.projects.", "projects."),
    ("trunk.resize.", "resize_layers."),
    *((f"trunk.levels.{i}.", f"scratch.layer{i + 1}_rn.") for i in range(4)),
    *((f"trunk.fusion{i}.", f"scratch.refinenet{i}.") for i in (4, 3, 2)),
    ("fusion1.", "scratch.refinenet1."),
    ("output.conv1.", "scratch.output_conv1."),
    ("output.conv2.", "scratch.output_conv2.0."),
    ("output.conv3.", "scratch.output_conv2.2."),
    (".unit1.", ".resConfUnit1."),
    (".unit2.", ".resConfUnit2."),
)
MEMORY_NAMES = {"gate": "w0", "down": "w1", "up": "w2", "modulation": "proj", "rates": "lrs"}


class CheckpointError(ValueError):
    """A weights file that does not fit; the message names the tensors."""


def official_name(name: str) -> str:
    """The released checkpoint's name of one of our parameters (DPT depth head)."""
    for ours, official in PREFIXES:
        if name.startswith(ours):
            name = official + name[len(ours) :]
            break
    memory = re.fullmatch(r"agg_regator\.memories\.(\d+)\.(\w+)(.*)", name)
    if memory:
        layer, part, rest = memory.groups()
        return f"agg_regator.global_blocks.{layer}.ttt.{MEMORY_NAMES.get(part, part)}{rest}"
    table = BLOCK_NAMES + CAMERA_NAMES
    if name.startswith(("dpt_decoder.", "xyz_decoder.")):
        table = DENSE_NAMES
    for ours, official in table:
        name = name.replace(ours, official)
    return name


def to_official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {official_name(name): tensor for name, tensor in state.items()}


def from_official(state: dict[str, Tensor], model: Scal3R) -> dict[str, Tensor]:
    """Our names for an official (or VGGT) state dict; unknown names stay as they are."""
    names = {official_name(name): name for name in model.state_dict()}
    renamed = {}
    for name, tensor in state.items():
        for official, vggt in VGGT_PREFIXES:
            if name.startswith(vggt) and not name.startswith(official):
                name = official + name[len(vggt) :]
        renamed[names.get(name, name)] = tensor
    return renamed


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a .safetensors or a .pt state dict; nothing is unpickled, and the
    file is mapped: a tensor is read when it is used."""
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                metadata = dict(file.metadata() or {})
                return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch and safetensors raise many kinds for a damaged file
        raise CheckpointError(f"checkpoint {path} cannot be read: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"checkpoint {path} must be a bare state dict of tensors")
    return state, {}


def read_config(metadata: dict[str, str]) -> Scal3RConfig | None:
    """The sizes written in one of our own files."""
    if CONFIG_KEY not in metadata:
        return None
    values = json.loads(metadata[CONFIG_KEY])
    known = {f.name for f in fields(Scal3RConfig)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise CheckpointError(f"checkpoint has unknown settings {unknown}")
    return Scal3RConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def check_fit(model: Scal3R, state: dict[str, Tensor]) -> None:
    """Strict: missing, unexpected and misshapen tensors are refused by name."""
    expected = model.state_dict()
    missing = sorted(set(expected) - set(state))
    unexpected = sorted(set(state) - set(expected))
    misshapen = sorted(
        f"{n}: expected {tuple(expected[n].shape)}, got {tuple(state[n].shape)}"
        for n in set(expected) & set(state)
        if expected[n].shape != state[n].shape
    )
    problems = [
        f"{len(names)} {what}, first: {', '.join(names[:5])}"
        for what, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("misshapen", misshapen),
        )
        if names
    ]
    if problems:
        raise CheckpointError("checkpoint does not fit the network: " + "; ".join(problems))


def load_weights(model: Scal3R, state: dict[str, Tensor]) -> None:
    """Into a network that is there already."""
    check_fit(model, state)
    model.load_state_dict(state)


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """As `read_tensors` reads it by its suffix (without metadata in a .pt); a file is replaced only
    when the new one is complete."""
    temporary = path.with_name(path.name + ".part")
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        if path.suffix == ".safetensors":
            save_file(ready, temporary, metadata=metadata)
        else:
            torch.save(ready, temporary)
    except (SafetensorError, RuntimeError) as error:  # no room, say
        temporary.unlink(missing_ok=True)
        raise OSError(f"{path} cannot be written: {error}") from error
    temporary.chmod(0o644)  # as all other results
    temporary.replace(path)


def save_weights(path: Path, model: Scal3R, dtype: torch.dtype, metadata: dict[str, str]) -> None:
    """Our own file: our names, sizes in the metadata."""
    tensors = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
    write_tensors(path, tensors, {CONFIG_KEY: json.dumps(asdict(model.config)), **metadata})


def load_model(
    path: Path,
    config: Scal3RConfig | None = None,
    *,
    depth_head: str = "auto",
    device: torch.device | None = None,
    progress: bool = False,
) -> Scal3R:
    """A network in evaluation mode, float32, from our own file or from the official one.

    `config` gives the sizes of an official file. `depth_head` is what the file holds (auto), dpt
    or moe: a mixture may take the place of a single head, which it equals until it is trained.
    Tensors go to the device one by one: no second copy of the network is held.
    """
    if depth_head not in ("auto", "dpt", "moe"):
        raise ValueError(f"depth head must be auto, dpt or moe, got {depth_head}")
    state, metadata = read_tensors(path)
    held = read_config(metadata) or config or Scal3RConfig.scal3r()
    with torch.device("meta"):  # nothing is allocated before it is loaded
        model = Scal3R(held)
    is_vggt = any(name.startswith("aggregator.patch_embed.") for name in state)
    if is_vggt:
        logger.warning("%s is a VGGT checkpoint: the memory is untrained", path)
        state = {n: t for n, t in state.items() if not n.startswith("track_head.")}
    if not set(state) <= set(model.state_dict()):
        state = from_official(state, model)
    if is_vggt:
        state = {**initial_memory_weights(model), **state}
    check_fit(model, state)
    bar = tqdm(state.items(), desc=f"loading {path.name}", unit="tensor", disable=not progress)
    target = device or torch.device("cpu")
    model.load_state_dict({n: t.to(target, torch.float32) for n, t in bar}, assign=True)
    if (held.depth_head, depth_head) == ("moe", "dpt"):
        raise CheckpointError(f"{path} has a moe depth head, asked for dpt")
    if (held.depth_head, depth_head) == ("dpt", "moe"):
        logger.warning("%s has a single depth head: the mixture in its place is untrained", path)
        model.replace_depth_head(held.moe_design, held.moe_experts)
    return model.to(target).eval()


def initial_memory_weights(model: Scal3R) -> dict[str, Tensor]:
    """What untrained memory layers start from: the same whenever it is asked for."""
    memories = model.aggregator.memories
    dim = model.config.dim
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return {
            f"aggregator.memories.{layer}.{name}": tensor
            for layer in memories
            for name, tensor in AdaptiveMemoryUnit(dim).state_dict().items()
        }


def describe(state: dict[str, Tensor], metadata: dict[str, str]) -> dict[str, object]:
    """Facts about a state dict for `scal3r weights info`."""
    config = read_config(metadata)
    return {
        "tensors": len(state),
        "parameters": sum(tensor.numel() for tensor in state.values()),
        "dtypes": sorted({str(t.dtype).removeprefix("torch.") for t in state.values()}),
        "fits": _fits(state, config),
        **{k: v for k, v in metadata.items() if k != CONFIG_KEY},
    }


def _fits(state: dict[str, Tensor], config: Scal3RConfig | None) -> str:
    if config is not None:
        name = "nano" if config.with_head("moe") == Scal3RConfig.nano() else "own size"
        return f"{name}, {config.depth_head} depth head"
    with torch.device("meta"):
        expected = {
            official_name(name): t.shape
            for name, t in Scal3R(Scal3RConfig.scal3r()).state_dict().items()
        }
    shapes = {name: tensor.shape for name, tensor in state.items()}
    if shapes == expected:
        return "scal3r (the published network)"
    if any(name.startswith("aggregator.patch_embed.") for name in state):
        return "VGGT (the memory would be untrained)"
    return "unknown"


def convert(source: Path, target: Path, dtype: str, official: bool) -> None:
    """Rewrites a checkpoint; the target is replaced only when it is complete."""
    if dtype not in PRECISIONS:
        raise CheckpointError(f"dtype must be one of {list(PRECISIONS)}, got {dtype}")
    if not official and target.suffix != ".safetensors":
        raise CheckpointError(f"our own form holds its sizes: expected .safetensors, got {target}")
    model = load_model(source, progress=True)
    if official and model.config.depth_head != "dpt":
        raise CheckpointError(f"the official form has no mixture, {source} has one")
    if official:
        state = {n: t.to(PRECISIONS[dtype]) for n, t in to_official(model.state_dict()).items()}
        write_tensors(target, state, {})
    else:
        save_weights(target, model, PRECISIONS[dtype], {})
