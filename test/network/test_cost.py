"""Counts of the full network against the published ones."""

from dataclasses import replace

import pytest

from scal3r_ros.network.cost import mixture_overhead, operations, parameters
from scal3r_ros.network.scal3r import Scal3RConfig

FULL = Scal3RConfig.scal3r()


def test_parameters_of_the_published_network():
    assert parameters(FULL) == 1_266_142_756
    assert parameters(replace(FULL, point_head=False)) == 1_266_142_756 - 32_654_628


def test_operations_of_a_chunk_of_the_paper():
    """122 TFLOP for 60 frames of 518 x 154: counted by hand from the layers' shapes."""
    counts = operations(replace(FULL, point_head=False), 60, 154, 518)
    assert counts["total"] == pytest.approx(122e12, rel=0.01)
    assert counts["encoder"] == pytest.approx(15.9e12, rel=0.01)
    assert counts["frame attention"] == pytest.approx(15.9e12, rel=0.01)
    assert counts["global attention"] == pytest.approx(75.0e12, rel=0.01)
    assert counts["memory"] == pytest.approx(9.8e12, rel=0.02)  # 8.6 and Newton-Schulz
    assert sum(counts.values()) == 2 * counts["total"]


def test_kept_patch_tokens_spare_the_encoder():
    config = replace(FULL, point_head=False)
    whole, half = operations(config, 8, 154, 518), operations(config, 8, 154, 518, kept=4)
    assert half["encoder"] == whole["encoder"] / 2
    assert half["global attention"] == whole["global attention"]


@pytest.mark.parametrize(("design", "most"), [("B", 0.002), ("C", 0.008), ("Z", 0.0001)])
def test_a_mixture_costs_less_than_one_percent_of_the_parameters(design, most):
    """MoE3D reports +0.79 % parameters and +4.97 % operations."""
    more, work = mixture_overhead(FULL, design, 4, 154, 518)
    assert 0 < more < most
    assert 0 <= work < 0.13
