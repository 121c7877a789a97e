"""The parallel schedule: every process holds a share of a sequence's chunks and all write one
memory. Start with `torchrun --nproc-per-node N`; gloo on CPUs, nccl on GPUs.
"""

import os
from dataclasses import dataclass

import torch
import torch.distributed as distributed
from torch import Tensor

from scal3r_ros.network.aggregator import MemoryPolicy
from scal3r_ros.network.memory import FastWeights, GlobalContext
from scal3r_ros.network.scal3r import ChunkImages, ChunkOutput, Scal3R


@dataclass(frozen=True)
class Process:
    """Which of how many this one is."""

    rank: int
    count: int

    def owns(self, chunk: int) -> bool:
        """Chunks are dealt out in turn: nobody has to know how many will come."""
        return chunk % self.count == self.rank


def started_by_torchrun() -> bool:
    return "WORLD_SIZE" in os.environ


def join_processes(device: torch.device) -> Process:
    """Joins the group that torchrun describes in the environment."""
    if not started_by_torchrun():
        raise ValueError("the parallel schedule is started by torchrun --nproc-per-node N")
    if not distributed.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Process(distributed.get_rank(), distributed.get_world_size())


def own_device(name: str) -> str:
    """auto and cuda give every process of a machine a GPU of its own."""
    if name not in ("auto", "cuda") or not torch.cuda.is_available():
        return name
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


def as_in_first(value: float, device: torch.device) -> float:
    """The first process's value in all of them; all must call together."""
    told = torch.tensor(value, dtype=torch.float64, device=device)
    distributed.broadcast(told, src=0)
    return float(told)


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
    outputs, context = model(_some(own), None, MemoryPolicy(reduce=sum_over_processes))
    return outputs, _counted_everywhere(context)


def remember_parallel(model: Scal3R, own: list[ChunkImages]) -> GlobalContext:
    """The complete memory on every process, without running the heads."""
    context = model.remember(_some(own), MemoryPolicy(reduce=sum_over_processes))
    return _counted_everywhere(context)


def _some(own: list[ChunkImages]) -> list[ChunkImages]:
    if not own:
        raise ValueError("there are fewer chunks than processes: every process needs one")
    return own


def _counted_everywhere(context: GlobalContext) -> GlobalContext:
    count = torch.tensor(float(context.chunks), device=context.gradients[0].gate.device)
    distributed.all_reduce(count)
    return GlobalContext(context.gradients, int(count))
