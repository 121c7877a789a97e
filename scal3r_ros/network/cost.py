"""What the network costs, counted on shapes alone: nothing is computed or allocated."""

from dataclasses import replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from scal3r_ros.network.aggregator import MemoryPolicy
from scal3r_ros.network.memory import GlobalContext
from scal3r_ros.network.scal3r import ChunkImages, Scal3R, Scal3RConfig


def parameters(config: Scal3RConfig) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in Scal3R(config).parameters())


def operations(
    config: Scal3RConfig, frames: int, height: int, width: int, *, kept: int = 0
) -> dict[str, int]:
    """Floating-point operations (two per multiplication with addition) of one chunk by stage and
    in `total`; `kept` leading frames bring their patch tokens along."""
    with torch.device("meta"):
        model = Scal3R(config).to("meta").eval().requires_grad_(False)
        images = torch.empty(1, frames, 3, height, width)
        tokens = height // config.patch * (width // config.patch)
        patches = torch.empty(1, kept, tokens, config.encoder_dim)
    encoding, rest = (FlopCounterMode(display=False, depth=3) for _ in range(2))
    with torch.no_grad():
        with encoding:
            fresh = model.encode(images[:, kept:])
        chunk = ChunkImages(images, 0, kept, torch.cat([patches, fresh], dim=1))
        with rest:
            model([chunk], GlobalContext(), MemoryPolicy())
    modules = {name: sum(ops.values()) for name, ops in rest.get_flop_counts().items()}
    found = {
        "encoder": encoding.get_total_flops(),
        "frame attention": _sum(modules, "Scal3R.aggregator.frame_blocks."),
        "global attention": _sum(modules, "Scal3R.aggregator.global_blocks."),
        "camera head": modules["Scal3R.camera_head"],
        "depth head": modules["Scal3R.depth_head"],
    }
    total = encoding.get_total_flops() + rest.get_total_flops()
    return {**found, "memory": total - sum(found.values()), "total": total}


def _sum(modules: dict[str, int], blocks: str) -> int:
    """Over the blocks of a list, each of which has an entry (its parts have longer names)."""
    return sum(n for name, n in modules.items() if name.removeprefix(blocks).isdigit())


def mixture_overhead(
    config: Scal3RConfig, design: str, frames: int, height: int, width: int
) -> tuple[float, float]:
    """Shares of parameters and operations that a mixture adds to a network with a single depth
    head and no point head. MoE3D reports +0.79 % and +4.97 %."""
    single = replace(config.with_head("dpt"), point_head=False)
    mixture = replace(config.with_head("moe", design), point_head=False)
    more = parameters(mixture) / parameters(single) - 1
    sizes = (frames, height, width)
    work = operations(mixture, *sizes)["total"] / operations(single, *sizes)["total"] - 1
    return more, work
