"""The parallel schedule: every process holds a share of a sequence's chunks and all write one
memory. Start with `torchrun --nproc-per-node N`; gloo on CPUs, nccl on GPUs.
"""

import torch
import torch.distributed as distributed
from torch import Tensor

from scal3r_ros.network.aggregator import MemoryPolicy
from scal3r_ros.network.memory import FastWeights, GlobalContext
from scal3r_ros.network.scal3r import ChunkImages, ChunkOutput, Scal3R


def start_processes(device: torch.device) -> None:
    """Joins the group that torchrun describes in the environment, once."""
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")


def share_of(count: int, rank: int, size: int) -> range:
    """Indices of a process's chunks: neighbours together, shares as even as can be."""
    if count < size:
        raise ValueError(f"{size} processes need at least as many chunks, got {count}")
    return range(count * rank // size, count * (rank + 1) // size)


def sum_over_processes(weights: FastWeights) -> FastWeights:
    """The sum on every process. Only gradients travel, one per memory layer: their size does not
    depend on how long the sequence is."""

    def total(w: Tensor) -> Tensor:
        w = w.contiguous().clone()
        distributed.all_reduce(w)
        return w

    return weights.map(total)


def forward_parallel(
    model: Scal3R, own: list[ChunkImages]
) -> tuple[list[ChunkOutput], GlobalContext]:
    """Outputs of this process's chunks, as if one process had seen them all (`offline`).

    The context is complete and the same everywhere; all processes must call together.
    """
    if not own:
        raise ValueError("every process needs at least one chunk")
    outputs, context = model(own, None, MemoryPolicy(reduce=sum_over_processes))
    counted = torch.tensor(context.chunks)
    distributed.all_reduce(counted)
    return outputs, GlobalContext(context.gradients, int(counted))
