"""Coarse maps brought to full size along the edges of the image."""

import math
from functools import lru_cache

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from scal3r_ros.network.shapes import Float


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
        """Block by block: so many pixels that whole cells lie under them, as matrices."""
        grid, size = coarse.shape[-2:], images.shape[-2:]
        images = images.to(coarse.dtype)
        look = torch.cat([self.contrast * images, self.learned(images)], dim=1)
        cells = functional.adaptive_avg_pool2d(look, grid)
        # -|look - cell|^2 but for |look|^2, which is the same for all cells
        theirs = torch.cat([2 * cells, -cells.square().sum(1, keepdim=True)], dim=1)
        ours = functional.pad(look, (0, 0, 0, 0, 0, 1), value=1.0)
        down, across = (math.gcd(n, m) for n, m in zip(size, grid, strict=True))  # blocks
        ours = rearrange(ours, "f c (i p) (j q) -> (f i j) (p q) c", i=down, j=across)
        distances, near = _around(tuple(size), tuple(grid), coarse.device)
        scores = ours @ _windows(theirs, down, across) - self.nearness * distances
        weights = scores.masked_fill(~near, -math.inf).softmax(dim=-1)
        taken = weights @ _windows(coarse, down, across).mT
        shape = {"i": down, "j": across, "p": size[0] // down}
        return rearrange(taken, "(f i j) (p q) c -> f c (i p) (j q)", **shape)


def _windows(
    cells: Float[Tensor, "f c h w"], down: int, across: int
) -> Float[Tensor, "blocks c n"]:
    """Of every block the cells under it and one around; the rim is repeated."""
    padded = functional.pad(cells, (1, 1, 1, 1), mode="replicate")
    rows, columns = cells.shape[-2] // down, cells.shape[-1] // across
    windows = padded.unfold(2, rows + 2, rows).unfold(3, columns + 2, columns)
    return rearrange(windows, "f c i j y x -> (f i j) c (y x)")


@lru_cache(maxsize=16)
def _around(
    size: tuple[int, int], grid: tuple[int, int], device: torch.device
) -> tuple[Float[Tensor, "pixels n"], Tensor]:
    """Of a block's pixels, squared distance [cells] to each cell of its window, and which of these
    are the nine around: the cell that the pixel's centre lies in, and its neighbours."""
    with torch.inference_mode(False):  # training may meet it later
        axes = [_along(n, m, device) for n, m in zip(size, grid, strict=True)]
        (down, near_down), (across, near_across) = axes
        distances = down.square()[:, None, :, None] + across.square()[None, :, None]
        near = near_down[:, None, :, None] & near_across[None, :, None]
        return distances.flatten(2).flatten(0, 1), near.flatten(2).flatten(0, 1)


def _along(pixels: int, cells: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Along one axis; a centre between two cells is in the later one."""
    blocks = math.gcd(pixels, cells)
    pixels, cells = pixels // blocks, cells // blocks
    doubled = (2 * torch.arange(pixels, device=device) + 1) * cells  # in cells, times 2 pixels
    own = doubled // (2 * pixels)
    window = torch.arange(-1, cells + 1, device=device)
    return (
        doubled[:, None] / (2 * pixels) - window - 0.5,
        (own[:, None] - window).abs() <= 1,
    )
