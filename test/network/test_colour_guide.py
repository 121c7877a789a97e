"""Coarse maps at full size: they change where the image does."""

from itertools import product

import pytest
import torch
from torch.nn import functional

from scal3r_ros.network.colour_guide import ColourGuide
from scal3r_ros.network.dense_head import upsample


def two_colours(width: int = 35, edge: int = 12) -> torch.Tensor:
    """Dark to the left of a column, bright to the right."""
    image = torch.full((1, 3, 21, width), 0.2)
    image[..., edge:] = 0.8
    return image


def step(cells: int = 10, edge: float = 3.5) -> torch.Tensor:
    """0 left, 1 right, and what is right of both in the cell that the edge divides."""
    return (torch.arange(cells) + 0.5 - edge).clamp(-0.5, 0.5).add(0.5).expand(1, 1, 6, cells)


@pytest.mark.parametrize("upright", [True, False])
def test_values_change_where_colour_does(upright):
    image, coarse = two_colours(), step(edge=12 * 10 / 35)
    with torch.no_grad():
        guided = ColourGuide()(coarse, image) if upright else ColourGuide()(coarse.mT, image.mT).mT
    truth = (torch.arange(35) >= 12).float().expand_as(guided)
    blurred = upsample(coarse, (21, 35))
    wrong = ((guided - truth).abs() > 0.2).float().mean()
    assert wrong <= 0.06  # one or two columns; a bilinear one has four
    assert wrong <= 0.5 * ((blurred - truth).abs() > 0.2).float().mean()


def test_where_nothing_is_seen_it_blends_by_distance_alone():
    coarse = torch.linspace(0, 1, 8).expand(1, 2, 4, 8)
    with torch.no_grad():
        out = ColourGuide()(coarse, torch.full((1, 3, 16, 32), 0.5))
    middle = out[:, :, :, 8:-8]
    straight = torch.linspace(0, 1, 8)[2:6].repeat_interleave(4)
    assert (middle - straight).abs().max() < 0.1
    assert (out[:, 0] - out[:, 1]).abs().max() == 0


@pytest.mark.parametrize("size", [(14, 28), (15, 31), (8, 16)])
def test_any_size_and_no_value_beyond_those_around(size):
    generator = torch.Generator().manual_seed(2)
    coarse = torch.rand(2, 3, 8, 16, generator=generator)
    image = torch.rand(2, 3, *size, generator=generator)
    out = ColourGuide()(coarse, image)
    assert out.shape == (2, 3, *size)
    assert out.min() >= coarse.min()
    assert out.max() <= coarse.max()
    out.sum().backward()


@pytest.mark.parametrize("size", [(12, 28), (16, 24), (9, 15)])
def test_block_by_block_is_pixel_by_pixel(size):
    """Against its definition, also where cells are no whole number of pixels: 3, 3.5; 4, 3; ..."""
    generator = torch.Generator().manual_seed(4)
    coarse = torch.rand(1, 2, 4, 8, generator=generator)
    image = torch.rand(1, 3, *size, generator=generator)
    guide = ColourGuide(4).requires_grad_(False)
    look = torch.cat([guide.contrast * image, guide.learned(image)], dim=1)
    cells = functional.adaptive_avg_pool2d(look, (4, 8))
    expected = torch.zeros(1, 2, *size)
    for y, x in product(range(size[0]), range(size[1])):
        at = (y + 0.5) * 4 / size[0], (x + 0.5) * 8 / size[1]
        near = [(int(at[0]) + r, int(at[1]) + c) for r in (-1, 0, 1) for c in (-1, 0, 1)]
        held = [(min(max(r, 0), 3), min(max(c, 0), 7)) for r, c in near]
        scores = torch.stack(
            [
                -(look[0, :, y, x] - cells[(0, slice(None), *cell)]).square().sum()
                - guide.nearness * ((at[0] - r - 0.5) ** 2 + (at[1] - c - 0.5) ** 2)
                for (r, c), cell in zip(near, held, strict=True)
            ]
        )
        values = torch.stack([coarse[(0, slice(None), *cell)] for cell in held])
        expected[0, :, y, x] = scores.softmax(0) @ values
    torch.testing.assert_close(guide(coarse, image), expected, rtol=1e-3, atol=1e-4)


def test_no_side_is_preferred():
    """Mirrored or turned inputs, mirrored or turned outputs: half a pixel or cell would show."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(1, 2, 8, 16, generator=generator)
    image = torch.rand(1, 3, 16, 64, generator=generator)
    guide = ColourGuide().requires_grad_(False)
    for parameter in guide.learned.parameters():
        parameter.zero_()
    out = guide(coarse, image)
    for axis in (2, 3):
        mirrored = guide(coarse.flip(axis), image.flip(axis)).flip(axis)
        torch.testing.assert_close(mirrored, out)
    torch.testing.assert_close(guide(coarse.mT, image.mT).mT, out)


def test_it_learns_what_alike_means():
    """Two patterns of one mean colour cannot be told apart by colour alone."""
    torch.manual_seed(0)
    stripes = torch.tensor([0.3, 0.7]).repeat(16).expand(3, 32, 32)
    image = stripes.clone()
    image[..., 13:] = stripes.mT[..., 13:]  # upright ones left, level ones right
    coarse = (torch.arange(8) * 4 + 2 > 13).float().expand(1, 1, 8, 8)
    truth = (torch.arange(32) >= 13).float().expand(1, 1, 32, 32)
    guide = ColourGuide()
    optimiser = torch.optim.Adam(guide.parameters(), lr=1e-2)
    errors = []
    for _ in range(80):
        errors.append((guide(coarse, image[None]) - truth).abs().mean())
        optimiser.zero_grad()
        errors[-1].backward()
        optimiser.step()
    assert errors[-1] < 0.7 * errors[0]
