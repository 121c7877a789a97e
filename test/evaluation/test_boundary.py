"""Edges whose errors are known by construction."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scal3r_ros.evaluation.boundary import edge_errors, edge_kinds, on_one_scale

NEAR, FAR = 2.0, 4.0


def scene() -> np.ndarray:
    """A square in front of a wall, with a patch of sky."""
    depth = np.full((40, 60), FAR)
    depth[10:30, 20:40] = NEAR
    depth[:4, :8] = 0
    return depth


def test_the_truth_has_no_errors():
    errors = edge_errors(scene()[None], scene()[None])
    assert errors.boundary_f1 == pytest.approx(1)
    assert (errors.flying, errors.swapped, errors.outside) == (0, 0, 0)
    assert errors.abs_rel_interior == errors.abs_rel_boundary == 0


@given(st.floats(0.01, 100))
def test_the_unit_of_length_does_not_matter(scale):
    blurred = cv2.GaussianBlur(np.where(scene() > 0, scene(), FAR), (0, 0), 1.0)
    a, b = (edge_errors(scene()[None], (s * blurred)[None]).as_dict() for s in (1.0, scale))
    assert b == pytest.approx(a)


def test_a_blurred_edge_puts_points_in_the_air_and_a_shifted_one_does_not():
    blurred = cv2.GaussianBlur(np.where(scene() > 0, scene(), FAR), (0, 0), 1.0)
    shifted = np.roll(scene(), 1, axis=1)
    soft, moved = (edge_errors(scene()[None], x[None]) for x in (blurred, shifted))
    assert soft.flying > 0.2
    assert soft.boundary_f1 < 0.9
    assert moved.flying == 0
    assert moved.swapped > 0.05
    assert moved.boundary_f1 < 1


def test_every_edge_pixel_is_of_one_kind():
    truth, estimate = scene(), scene()
    estimate[15, 18:22] = 3.0  # half way
    estimate[16, 18:22] = 5.0  # behind the wall
    estimate[17, 18:22] = [NEAR, NEAR, FAR, FAR]  # on the other surface
    at_edge, (flying, swapped, outside) = edge_kinds(truth, estimate)
    assert at_edge[12:28, 18:22].all()
    assert not at_edge[20, 25:35].any()
    for row, kind in ((15, flying), (16, outside), (17, swapped)):
        assert kind[row, 18:22].all()
        assert kind.sum() == 4


def test_an_image_without_an_interior_keeps_its_scale():
    noise = np.random.default_rng(0).uniform(1, 9, (20, 20))
    np.testing.assert_array_equal(on_one_scale(noise, 2 * noise), 2 * noise)


def test_a_floor_far_away_is_no_edge():
    """Depth grows by more than the jump from row to row there, but nothing stands in front."""
    v = np.arange(40)[:, None] + 0.5
    floor = np.broadcast_to(np.where(v > 20, 20 / np.maximum(v - 20, 1e-9), 60.0), (40, 60))
    _, kinds = edge_kinds(floor, floor)
    assert not any(kind.any() for kind in kinds)
    assert edge_errors(floor[None], floor[None]).flying in (0, pytest.approx(np.nan, nan_ok=True))


def test_images_without_a_boundary_do_not_lower_the_score():
    wall = np.full((40, 60), FAR)
    both = np.stack([scene(), wall])
    assert edge_errors(both, both).boundary_f1 == pytest.approx(1)
