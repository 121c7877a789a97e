"""Descriptors on disk and in memory answer as one matrix does."""

import numpy as np
import pytest

from scal3r_ros.mapping import places
from scal3r_ros.mapping.places import Descriptors
from scal3r_ros.mapping.shelf import Shelf


def expected(kept: np.ndarray, first: int) -> np.ndarray:
    half = kept.astype(np.float16).astype(np.float64)
    centred = half - half.mean(axis=0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    return centred[first:] @ centred.T


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
