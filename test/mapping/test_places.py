"""Descriptors on disk and in memory answer as one matrix does."""

import numpy as np
import pytest

from scal3r_ros.mapping import places
from scal3r_ros.mapping.places import Descriptors
from scal3r_ros.mapping.shelf import Shelf


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def cosines(kept: np.ndarray, first: int) -> np.ndarray:
    centred = unit(unit(kept) - unit(kept).mean(axis=0))
    return centred[first:] @ centred.T


def expected(kept: np.ndarray, first: int) -> np.ndarray:
    """Of what is kept: a byte a number."""
    return cosines(np.rint(kept / np.abs(kept).max(axis=1, keepdims=True) * 127), first)


@pytest.mark.parametrize("count", [3, 4, 5, 8, 11])
@pytest.mark.parametrize("new", [1, 3])
def test_likeness_is_that_of_all_wherever_they_lie(rng, monkeypatch, count, new):
    """Blocks of four: the newest may lie in an open block, a full one, or two."""
    monkeypatch.setattr(places, "BLOCK", 4)
    kept = rng.normal(0.5, 1, (count, 16)).astype(np.float32)
    descriptors = Descriptors(Shelf())
    for row in kept:
        descriptors.append(row)
    assert len(descriptors) == count
    found = descriptors.likeness(count - new)
    np.testing.assert_allclose(found, expected(kept, count - new), atol=1e-4)


def test_what_is_forgotten_leaves_no_trace(rng, monkeypatch):
    """Back over the end of a full block, and on again."""
    monkeypatch.setattr(places, "BLOCK", 4)
    kept = rng.normal(0.5, 1, (10, 16)).astype(np.float32)
    descriptors = Descriptors(Shelf())
    for row in kept:
        descriptors.append(row)
    descriptors.forget_from(6)
    descriptors.append(kept[9])
    left = np.concatenate([kept[:6], kept[9:]])
    assert len(descriptors) == 7
    np.testing.assert_allclose(descriptors.likeness(5), expected(left, 5), atol=1e-4)


def test_a_byte_a_number_is_enough(rng):
    """Of places of 4096 numbers, some of them alike, as words make them."""
    kept = rng.laplace(0, 1, (300, 4096)) + 0.3 * rng.laplace(0, 1, 4096)
    kept[150:] = 0.5 * kept[:150] + 0.5 * kept[150:]
    descriptors = Descriptors(Shelf())
    for row in unit(kept).astype(np.float32):
        descriptors.append(row)
    exact = cosines(kept, 290)
    found = descriptors.likeness(290)
    assert np.abs(found - exact).max() < 2e-3
    assert (exact > 0.3).sum(axis=1).min() >= 2
