"""Camera images become network input: the official resize and crop, and what it does to K."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from scal3r_ros.network.shapes import Float, UInt8


@dataclass(frozen=True)
class Crop:
    """Resize to `resized`, then cut `size` out at `offset`; all (rows, columns), pixels."""

    resized: tuple[int, int]
    offset: tuple[int, int]
    size: tuple[int, int]


def plan_crop(height: int, width: int, target: tuple[int, int], patch: int) -> Crop:
    """The official rule: cover the target, round to patches, cut the middle."""
    ratio = max(target[0] / height, target[1] / width)
    resized = (round(height * ratio / patch) * patch, round(width * ratio / patch) * patch)
    offset = (
        round(resized[0] / 2) - target[0] // 2,
        round(resized[1] / 2) - target[1] // 2,
    )
    return Crop(resized, offset, target)


def target_by_width(height: int, width: int, target_width: int, patch: int) -> tuple[int, int]:
    """The official size: fixed width, height rounded down to patches."""
    rows = max(1, int(height / width * target_width) // patch)
    return rows * patch, target_width


def target_by_area(height: int, width: int, patches: int, patch: int) -> tuple[int, int]:
    """The nano size: about `patches` patches whatever the aspect, so wide images keep rows."""
    rows = max(2, round((patches * height / width) ** 0.5))
    return rows * patch, max(2, round(rows * width / height)) * patch


def preprocess(image: UInt8[Tensor, "h w 3"], crop: Crop) -> Float[Tensor, "3 h2 w2"]:
    """RGB in 0..1; bicubic with antialias as Pillow does it: across, rounded to bytes, then down.

    Of 10 000 values at most a few differ, by one: Pillow's weights are in fixed point.
    """
    pixels = image.permute(2, 0, 1)[None].float()
    across = _resized(pixels, (image.shape[0], crop.resized[1]))
    resized = _resized(across, crop.resized)
    top, left = crop.offset
    bottom, right = top + crop.size[0], left + crop.size[1]
    over = (-left, right - crop.resized[1], -top, bottom - crop.resized[0])
    padded = functional.pad(resized, tuple(max(0, p) for p in over))
    top, left = max(0, top), max(0, left)
    return padded[0, :, top : top + crop.size[0], left : left + crop.size[1]] / 255


def uncut(values: Float[Tensor, "s h w"], crop: Crop, nothing: float) -> Float[Tensor, "s h2 w2"]:
    """What was found in the cut, for the whole image: pixels of both lie above each other."""
    (top, left), (rows, columns) = crop.offset, crop.size
    right, bottom = crop.resized[1] - left - columns, crop.resized[0] - top - rows
    return functional.pad(values, (left, right, top, bottom), value=nothing)


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    resized = functional.interpolate(x, size, mode="bicubic", antialias=True)
    return (resized + 0.5).floor().clamp(0, 255)
