"""Attention to squares of patches: which tokens it sees, where they lie, and what stays."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from scal3r_ros.network.aggregator import SPECIAL, position_tables
from scal3r_ros.network.cost import operations
from scal3r_ros.network.layers import Attention, CoarseKeys, patch_positions, rotary_table
from scal3r_ros.network.scal3r import ChunkImages, Scal3R, Scal3RConfig

DIM, HEADS, FRAMES = 32, 2, 3


def coarse_of(grid: tuple[int, int], side: int = 2) -> CoarseKeys:
    coarse = position_tables(grid, DIM // HEADS, DIM, side, torch.device("cpu")).coarse
    assert coarse is not None
    return coarse


@pytest.mark.parametrize("grid", [(4, 6), (3, 5), (1, 2)])
def test_special_tokens_stay_and_squares_are_means_of_their_patches(grid):
    rows, columns = grid
    x = torch.randn(2, FRAMES * (SPECIAL + rows * columns), DIM)
    frames = x.unflatten(1, (FRAMES, -1))
    seen = coarse_of(grid).tokens(x).unflatten(1, (FRAMES, -1))
    torch.testing.assert_close(seen[:, :, :SPECIAL], frames[:, :, :SPECIAL])
    patches = frames[:, :, SPECIAL:].unflatten(2, grid)
    squares = seen[:, :, SPECIAL:].unflatten(2, (-(-rows // 2), -(-columns // 2)))
    for row in range(squares.shape[2]):
        for column in range(squares.shape[3]):
            members = patches[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            torch.testing.assert_close(squares[:, :, row, column], members.mean(dim=(2, 3)))


def test_a_square_lies_in_the_middle_of_its_patches():
    table = coarse_of((3, 5)).table
    middles = [(r, c) for r in (1.5, 3.0) for c in (1.5, 3.5, 5.0)]  # the last ones are smaller
    expected = rotary_table(torch.tensor([(0.0, 0.0)] * SPECIAL + middles), DIM // HEADS)
    torch.testing.assert_close(table.cos, expected.cos)
    torch.testing.assert_close(table.sin, expected.sin)


def test_attention_is_that_of_all_tokens_to_the_squares():
    """The same projections as without, keys and values of other tokens."""
    torch.manual_seed(0)
    grid, attention = (4, 4), Attention(DIM, HEADS, normalise_qk=True)
    table = rotary_table(patch_positions(*grid, special=SPECIAL), DIM // HEADS)
    x, coarse = torch.randn(1, FRAMES * (SPECIAL + 16), DIM), coarse_of(grid)
    q, _, _ = attention.project(x, table, None)
    _, k, v = attention.project(coarse.tokens(x), coarse.table, None)
    mixed = functional.scaled_dot_product_attention(q, k, v)
    expected = attention.proj(mixed.transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x, table, coarse), expected)


def test_a_network_looks_at_patches_unless_told_otherwise():
    """By its settings or later; no weight is added, and there is a way back."""
    torch.manual_seed(1)
    model = Scal3R(Scal3RConfig.nano()).eval()
    coarse = Scal3R(replace(model.config, global_side=2)).eval()
    coarse.load_state_dict(model.state_dict())
    assert model.aggregator.positions((4, 4), torch.device("cpu")).coarse is None
    images = torch.rand(1, 2, 3, 56, 70)

    def depth(of: Scal3R) -> torch.Tensor:
        with torch.no_grad():
            return of([ChunkImages(images, 0)])[0][0].depth

    fine = depth(model)
    told = depth(model.look_at_squares(2))
    assert torch.equal(told, depth(coarse))
    assert model.config == coarse.config
    assert not torch.equal(told, fine)
    assert torch.equal(depth(model.look_at_squares(1)), fine)


def test_four_patches_a_key_are_a_quarter_of_the_work():
    """Counted: of the products of queries with keys, and of weights with values."""
    work = [
        operations(replace(Scal3RConfig.scal3r(), global_side=side), 8, 154, 518) for side in (1, 2)
    ]
    linear = 24 * 2 * 8 * 412 * 12 * 1024**2  # of queries, keys, values, output and hidden layer
    attention = [w["global attention"] - linear for w in work]
    saved = 24 * 2 * 2 * 1024**2 * 8 * (412 - 119)  # keys and values of 114 squares and 5 tokens
    assert attention[0] == pytest.approx(24 * 4 * 1024 * (8 * 412) ** 2, rel=1e-3)
    assert attention[1] + saved == pytest.approx(attention[0] * 119 / 412, rel=1e-3)
