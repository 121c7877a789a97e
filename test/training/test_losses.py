"""What parts the experts: the error of picking, and even use."""

import math
from dataclasses import replace

import pytest
import torch

from scal3r_ros.network.moe_head import Mixture
from scal3r_ros.network.scal3r import ChunkOutput
from scal3r_ros.training.losses import (
    LEAST_MOTION,
    LossConfig,
    camera_loss,
    depth_loss,
    expected_error,
    imbalance,
    mean_over,
)
from scal3r_ros.training.samples import SampleConfig


@pytest.fixture
def mixture() -> Mixture:
    """Two experts at log depths 0 and 1; the first has 3/4 of the left column, 1/4 of the right."""
    log_depth = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1).expand(1, 2, 12, 12)
    first = torch.full((1, 1, 12, 12), 0.75)
    first[..., 6:] = 0.25
    return Mixture(log_depth, torch.zeros_like(log_depth), torch.cat([first, 1 - first], 1).log())


@pytest.mark.parametrize("stride", [(0.0, 1.0), (2.0, 0.5)])
def test_cameras_must_move_and_not_from_more_to_less(stride):
    with pytest.raises(ValueError, match=r"samples.stride must be from > 0"):
        SampleConfig(stride=stride)


def test_in_their_motions_unit_slow_cameras_count_as_much_as_fast_ones():
    truth = torch.zeros(2, 4, 9)
    truth[..., 6] = 1.0
    truth[0, :, 0] = torch.arange(4) * 0.02
    truth[1, :, 0] = torch.arange(4) * 0.4
    nothing = truth.clone()
    nothing[..., :3] = 0
    lost = [camera_loss([n[None]], t[None], True) for n, t in zip(nothing, truth, strict=True)]
    assert lost[0] == pytest.approx(lost[1]) == pytest.approx(1 / 3)  # of three coordinates
    turned = truth * torch.tensor([0.0] * 3 + [1.0] * 6)
    turned[0, :, 4], turned[1, :, 4] = torch.arange(4) * 0.01, torch.arange(4) * 0.2
    unturned = turned.clone()
    unturned[..., 4] = 0
    lost = [camera_loss([n[None]], t[None], True) for n, t in zip(unturned, turned, strict=True)]
    assert lost[0] == pytest.approx(lost[1]) == pytest.approx(1 / 4)  # of four components
    still = truth[:1] * torch.tensor([0.0] * 3 + [1.0] * 6)
    jitter = still.clone()
    jitter[..., 1] = LEAST_MOTION / 2
    assert camera_loss([jitter], still, True) == pytest.approx(0.5 / 3)


def test_a_mean_over_some_values_is_that_of_an_index():
    values = torch.tensor([1.0, 5.0, 3.0], requires_grad=True)
    where = torch.tensor([True, False, True])
    assert mean_over(values, where) == values[where].mean() == 2.0
    mean_over(values, torch.zeros(3, dtype=torch.bool)).backward()
    assert torch.equal(values.grad, torch.zeros(3))


def test_the_error_of_picking_is_each_experts_by_its_weight(mixture):
    truth, valid = torch.zeros(1, 12, 12), torch.ones(1, 12, 12, dtype=torch.bool)
    left = valid.clone()
    left[..., 6:] = False
    assert expected_error(mixture, truth, left) == pytest.approx(0.25)
    assert expected_error(mixture, truth, valid) == pytest.approx(0.5)
    # between both the mean is right, and picking is not
    between = torch.full_like(truth, 0.25)
    mean = (mixture.log_weight.exp() * mixture.log_depth).sum(dim=1)
    assert (mean - between)[left].abs().max() == pytest.approx(0.0, abs=1e-6)
    assert expected_error(mixture, between, left) == pytest.approx(0.75 * 0.25 + 0.25 * 0.75)


def test_even_use_costs_nothing_however_sure_each_pixel_is(mixture):
    valid = torch.ones(1, 12, 12, dtype=torch.bool)
    left = valid.clone()
    left[..., 6:] = False
    assert imbalance(mixture, valid) == pytest.approx(0.0, abs=1e-6)
    uneven = math.log(2) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25)
    assert imbalance(mixture, left) == pytest.approx(uneven)
    weight = torch.tensor([1.0, 1e-9]).view(1, 2, 1, 1).expand(1, 2, 12, 12)
    alone = replace(mixture, log_weight=weight.log())
    assert imbalance(alone, valid) == pytest.approx(math.log(2), abs=1e-4)


def test_training_weighs_both(mixture):
    truth, valid = torch.zeros(1, 12, 12), torch.ones(1, 12, 12, dtype=torch.bool)
    valid[..., 10:] = False
    flat = torch.ones(1, 1, 12, 12)
    output = ChunkOutput([], flat, flat, flat, flat[:, :, 0], flat, mixture)
    plain, _ = depth_loss(output, truth, valid, LossConfig())
    more, _ = depth_loss(output, truth, valid, LossConfig(expected=2.0, balance=3.0))
    added = 2 * expected_error(mixture, truth, valid) + 3 * imbalance(mixture, valid)
    assert more - plain == pytest.approx(float(added), abs=1e-6)
    assert added > 0.5
