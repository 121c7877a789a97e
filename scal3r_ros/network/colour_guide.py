"""Coarse maps brought to full size along the edges of the image."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from scal3r_ros.network.shapes import Float

AROUND = tuple((row, column) for row in (-1, 0, 1) for column in (-1, 0, 1))  # cells


class ColourGuide(nn.Module):
    """Joint bilateral upsampling with a learned sense of colour: a pixel takes from the nine coarse
    cells around it, most from those that look like it and lie near it.

    Bilinear weights blur over a coarse cell, whatever the image shows; these end where its colour
    does (joint bilateral upsampling, Kopf et al. 2007).
    """

    def __init__(self, channels: int = 13, contrast: float = 6.0, nearness: float = 1.0) -> None:
        super().__init__()
        self.learned = nn.Sequential(
            nn.Conv2d(3, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 1)
        )
        self.contrast = nn.Parameter(torch.tensor(contrast))  # of colours in 0..1
        self.nearness = nn.Parameter(torch.tensor(nearness))  # per squared cell

    def forward(
        self, coarse: Float[Tensor, "f c h w"], images: Float[Tensor, "f 3 h2 w2"]
    ) -> Float[Tensor, "f c h2 w2"]:
        grid, size = coarse.shape[-2:], images.shape[-2:]
        images = images.to(coarse.dtype)
        look = torch.cat([self.contrast * images, self.learned(images)], dim=1)
        cells = functional.adaptive_avg_pool2d(look, grid)
        # -|look - cell|^2 but for |look|^2, which is the same for all nine
        ours = torch.cat([2 * look, torch.ones_like(look[:, :1])], dim=1)
        theirs = torch.cat([cells, -cells.square().sum(1, keepdim=True)], dim=1)
        down, across = (_within(n, m, coarse.device) for n, m in zip(size, grid, strict=True))
        scores = [
            (ours * seen).sum(1)
            - self.nearness * ((down - row).square()[:, None] + (across - column).square())
            for (row, column), seen in zip(AROUND, _neighbours(theirs, size), strict=True)
        ]
        weights = torch.stack(scores, dim=1).softmax(dim=1)
        taken = zip(weights.split(1, dim=1), _neighbours(coarse, size), strict=True)
        first, cell = next(taken)
        total = first * cell
        for weight, cell in taken:
            total = total + weight * cell
        return total


def _within(pixels: int, cells: int, device: torch.device) -> Float[Tensor, " n"]:
    """Where each pixel lies in its cell, -0.5 to 0.5; the cell is the one that `_neighbours` takes,
    also where a pixel's centre lies between two."""
    index = torch.arange(cells, dtype=torch.float32, device=device)[None, None]
    cell = functional.interpolate(index, pixels, mode="nearest-exact")[0, 0]
    return (torch.arange(pixels, device=device) + 0.5) * cells / pixels - cell - 0.5


def _neighbours(
    cells: Float[Tensor, "f c h w"], size: torch.Size
) -> Iterator[Float[Tensor, "f c h2 w2"]]:
    """For each pixel its cell and the eight around, one after another; the rim is repeated."""
    height, width = cells.shape[-2:]
    padded = functional.pad(cells, (1, 1, 1, 1), mode="replicate")
    for row, column in AROUND:
        part = padded[:, :, row + 1 : row + 1 + height, column + 1 : column + 1 + width]
        yield functional.interpolate(part, size, mode="nearest-exact")
