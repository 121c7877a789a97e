"""The mixture head starts as the head it replaces; its decodings mean what they say."""

import pytest
import torch
from torch.nn import functional

from scal3r_ros.network.camera_head import CameraHead, decode_camera
from scal3r_ros.network.dense_head import DenseHead, DenseTrunk, activate_depth
from scal3r_ros.network.moe_head import DESIGNS, Mixture, from_dense

TAPS, SIZE, PATCH = 4, (28, 42), 14


@pytest.fixture
def head() -> DenseHead:
    torch.manual_seed(0)
    return DenseHead(DenseTrunk(16, 8, (4, 4, 8, 8)), 8, out=2, hidden=6).eval()


@pytest.fixture
def inputs() -> tuple:
    torch.manual_seed(1)
    taps = [torch.randn(2, 6, 16) for _ in range(TAPS)]
    return taps, torch.rand(2, 3, *SIZE), PATCH


@torch.no_grad()
@pytest.mark.parametrize("design", DESIGNS)
def test_before_training_the_mixture_equals_the_single_head(head, inputs, design):
    depth, confidence = activate_depth(head(*inputs))
    mixture = from_dense(head, design=design)(*inputs)
    for decoding in ("soft", "pick", "hybrid"):
        torch.testing.assert_close(mixture.decode(decoding), depth, rtol=1e-4, atol=0)
    torch.testing.assert_close(mixture.confidence(), confidence, rtol=1e-4, atol=0)
    torch.testing.assert_close(mixture.certainty(), torch.full_like(depth, 0.25))


@torch.no_grad()
@pytest.mark.parametrize("design", ["B", "C"])
def test_jitter_breaks_the_symmetry_by_little(head, inputs, design):
    depth, _ = activate_depth(head(*inputs))
    mixture = from_dense(head, design=design, jitter=0.01)(*inputs)
    assert mixture.log_depth.std(dim=1).max() > 0
    assert ((mixture.decode("soft") - depth).abs() / depth).max() < 0.1


@torch.no_grad()
@pytest.mark.parametrize("design", DESIGNS)
def test_experts_start_where_they_are_told(head, inputs, design):
    moe = from_dense(head, design=design)
    moe.start_apart([0.0] * 4, log_scale=-1.0)
    together = moe(*inputs)
    moe.start_apart([0.0, 0.2, 0.4, 0.6], log_scale=-1.5)
    apart = moe(*inputs)
    for k in range(4):
        shift = apart.log_depth[:, k] - together.log_depth[:, k]
        torch.testing.assert_close(shift, torch.full_like(shift, 0.2 * k), atol=1e-5, rtol=0)
    wider = together.log_scale - apart.log_scale
    torch.testing.assert_close(wider, torch.full_like(wider, 0.5), atol=1e-5, rtol=0)


def test_an_unknown_design_is_refused(head):
    with pytest.raises(ValueError, match="design must be one of"):
        from_dense(head, design="Q")


def test_pick_takes_a_surface_where_soft_lies_between_them():
    log_depth = torch.tensor([1.0, 4.0]).log().view(1, 2, 1, 1)
    logits = torch.tensor([0.1, 0.0]).view(1, 2, 1, 1)
    mixture = Mixture(log_depth, torch.zeros(1, 2, 1, 1), functional.log_softmax(logits, 1))
    assert mixture.decode("pick").item() == pytest.approx(1.0)
    assert 2.0 < mixture.decode("soft").item() < 3.0
    assert mixture.decode("hybrid").item() == pytest.approx(1.0)
    assert mixture.certainty().item() == pytest.approx(0.525, abs=1e-3)


def test_a_round_of_the_camera_head_learns_only_from_its_own_correction():
    """As in VGGT: the encoding so far is a given, not only where it modulates the tokens."""
    torch.manual_seed(0)
    head = CameraHead(16, 1, 2)
    first, *_, last = head(torch.randn(1, 3, 16))
    before = torch.autograd.grad(first[..., :7].sum(), head.empty_pose, retain_graph=True)[0]
    after = torch.autograd.grad(last[..., :7].sum(), head.empty_pose, allow_unused=True)[0]
    assert before.abs().max() > 0
    assert after is None


def test_decoded_cameras_have_rotations_and_the_field_of_view_in_its_order():
    encoding = torch.tensor([[0.1, 0.2, 0.3, 0.0, 0.0, 2.0, 2.0, 1.0, 1.5]])
    T, K = decode_camera(encoding, 100, 200)
    quarter_turn = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(T[0, :, :3], quarter_turn, atol=1e-6, rtol=0)
    torch.testing.assert_close(T[0, :, 3], torch.tensor([0.1, 0.2, 0.3]))
    assert K[0, 1, 1].item() == pytest.approx(50 / torch.tan(torch.tensor(0.5)).item())
    assert K[0, 0, 0].item() == pytest.approx(100 / torch.tan(torch.tensor(0.75)).item())
    assert K[0, :2, 2].tolist() == [100.0, 50.0]
