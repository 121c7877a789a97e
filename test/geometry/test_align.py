"""Fits of transforms to points."""

import numpy as np
import pytest

from scal3r_ros.geometry.align import AlignmentError, robust_align, umeyama
from scal3r_ros.geometry.sim3 import Sim3


def test_umeyama_recovers_the_transform(rng):
    T_a_b = Sim3.exp(rng.normal(0, 1, 7))
    xyz_b = rng.normal(0, 3, (50, 3))
    fit = umeyama(T_a_b.apply(xyz_b), xyz_b, np.ones(50))
    np.testing.assert_allclose(fit.as_matrix(), T_a_b.as_matrix(), atol=1e-9)


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
def test_a_third_of_outliers_does_no_harm_at_any_scale_of_the_scene(rng, unit):
    T_a_b = Sim3.exp(np.array([0.2, -0.4, 0.1, 1.0, 2.0, 0.5, 0.3]))
    xyz_b = rng.normal(0, unit, (300, 3))
    xyz_a = T_a_b.apply(xyz_b) + rng.normal(0, 0.001 * unit, (300, 3))
    xyz_a[:100] += rng.normal(0, 5 * unit, (100, 3))
    fit = robust_align(xyz_a, xyz_b, np.ones(300))
    assert abs(fit.T_a_b.s / T_a_b.s - 1) < 1e-3
    assert np.linalg.norm(fit.T_a_b.t - T_a_b.t) < 1e-3 * unit
    assert 0.6 < fit.inlier_share < 0.7


@pytest.mark.parametrize("xyz", [np.zeros((9, 3)), np.outer(np.arange(9.0), [1, 2, 3])])
def test_points_at_one_place_or_on_a_line_are_refused(xyz):
    with pytest.raises(AlignmentError):
        umeyama(xyz, xyz, np.ones(len(xyz)))
