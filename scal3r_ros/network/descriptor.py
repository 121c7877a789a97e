"""Place descriptor: pooled tokens of the backbone, so that loops need no second network."""

from torch import Tensor
from torch.nn import functional

from scal3r_ros.network.shapes import Float


def place_descriptor(
    patches: Float[Tensor, "*batch n c"], power: float = 3.0
) -> Float[Tensor, "*batch d"]:
    """Signed generalised mean over patches, joined with their mean, unit length."""
    tokens = functional.normalize(patches.float(), dim=-1)
    lifted = (tokens.sign() * tokens.abs().pow(power)).mean(dim=-2)
    peaks = lifted.sign() * lifted.abs().pow(1 / power)
    return functional.normalize(peaks, dim=-1)
