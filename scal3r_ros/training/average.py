"""The running average of a network's weights: what is shown and saved of a training run."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


def learnt(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that change; the rest of a large network is neither averaged nor kept."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


class WarmAverage:
    """Exponential average that follows quickly at first, so that short runs forget their start."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.current, self.decay = learnt(model), decay  # the model's own memory
        self.values = {name: tensor.clone() for name, tensor in self.current.items()}

    def update(self, steps: int) -> None:
        """After so many steps before this one; nothing waits for a GPU."""
        keep = min(self.decay, (1 + steps) / (10 + steps))
        update = get_ema_multi_avg_fn(keep)  # all tensors together
        update(list(self.values.values()), list(self.current.values()), steps)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """The model has the averaged weights inside, its own again after."""
        own = {name: tensor.clone() for name, tensor in self.current.items()}
        put(self.current, self.values)
        yield
        put(self.current, own)


def put(into: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    """In place, name by name."""
    for name, tensor in into.items():
        tensor.copy_(values[name])
