"""The procedural world tells the truth about itself; training learns and resumes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from scal3r_ros.geometry.camera import project, transform_points, unproject
from scal3r_ros.geometry.sim3 import invert_pose
from scal3r_ros.training.losses import LossConfig, chunk_loss, mixture_nll
from scal3r_ros.training.samples import SampleConfig, WorldSamples, chunk_sample
from scal3r_ros.training.scenes import FAMILIES
from scal3r_ros.training.train import TrainConfig, learning_rate, train
from scal3r_ros.training.world import render_clip


@pytest.mark.parametrize("family", FAMILIES)
def test_depth_poses_and_pixels_agree(family):
    """A point seen in one image has the depth and the colour that another image says."""
    clip = render_clip(21, 4, 70, 98, family=family, augment=False, stride=0.3)
    a, b = 0, 2
    depth = clip.depth.double().numpy()
    K, T = clip.K.double().numpy(), clip.T_world_cam.double().numpy()
    near = (depth[a] > 0) & (depth[a] < 50)
    xyz = transform_points(invert_pose(T[b]) @ T[a], unproject(depth[a], K[a])[near])
    uv = np.nan_to_num(project(xyz, K[b]), nan=-1)
    inside = (uv > 2).all(1) & (uv < np.array([98, 70]) - 2).all(1)
    u, v = uv[inside].astype(int).T
    error = np.abs(depth[b][v, u] / xyz[inside, 2] - 1)
    assert inside.mean() > 0.2
    assert np.median(error) < 0.02
    colours = clip.images.numpy().astype(float)
    difference = np.abs(colours[b][v, u] - colours[a][near][inside]).mean()
    assert difference < 0.6 * np.abs(colours[b][v, u] - colours[a][near][inside][::-1]).mean() + 4


def test_the_same_seed_is_the_same_world():
    one, two, other = (render_clip(seed, 2, 42, 56) for seed in (5, 5, 6))
    assert torch.equal(one.images, two.images)
    assert not torch.equal(one.images, other.images)


def test_targets_have_unit_mean_distance():
    clip = render_clip(9, 5, 42, 56, family="room")
    sample = chunk_sample([clip], 0, 5, 0)
    reference = sample.encoding[0, sample.reference]
    torch.testing.assert_close(reference[:7], torch.tensor([0.0, 0, 0, 0, 0, 0, 1]))
    assert 0.2 < float(sample.depth[sample.valid].mean()) < 1.5


def test_mixture_likelihood_against_the_slow_sum():
    from scal3r_ros.network.moe_head import Mixture

    g = torch.Generator().manual_seed(0)
    z, mu, b = (torch.randn(2, n, 3, 4, generator=g) for n in (1, 3, 3))
    w = torch.randn(2, 3, 3, 4, generator=g).log_softmax(1)
    valid = torch.ones(2, 3, 4, dtype=torch.bool)
    loss = mixture_nll(Mixture(mu, b, w), z[:, 0], valid)
    density = (w.exp() / (2 * b.exp()) * torch.exp(-(z - mu).abs() / b.exp())).sum(1)
    torch.testing.assert_close(loss, -density.log().clamp_min(-10).mean(), rtol=1e-3, atol=1e-3)


def test_training_resumes_where_it_stopped_and_lowers_its_loss(tmp_path):
    samples = SampleConfig(patches=(12,), frames_per_step=4, max_frames=3, max_chunks=2)
    config = TrainConfig(out=str(tmp_path), steps=6, minutes=5.0, workers=0, samples=samples)
    train(replace(config, steps=3))
    weights = train(config)
    lines = (tmp_path / "log.csv").read_text() if (tmp_path / "log.csv").exists() else ""
    state = torch.load(tmp_path / "resume.pt", weights_only=True)
    assert state["step"] == 6
    assert weights.is_file()
    assert "nan" not in lines


def test_a_few_steps_on_one_sample_lower_the_loss():
    from scal3r_ros.network.scal3r import ChunkImages, Scal3R, Scal3RConfig

    torch.manual_seed(0)
    model = Scal3R(Scal3RConfig.nano()).train()
    config = SampleConfig(patches=(12,), frames_per_step=4, max_frames=3, max_chunks=1)
    sample = WorldSamples(config, 3).sequence(np.random.default_rng(1))[0]
    optimiser = torch.optim.AdamW(model.parameters(), 5e-4)
    totals = []
    for _ in range(12):
        outputs, _ = model([ChunkImages(sample.images, sample.reference, 0)], None)
        loss = chunk_loss(outputs[0], sample, LossConfig()).total
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        totals.append(float(loss.detach()))
    assert np.mean(totals[-3:]) < 0.9 * np.mean(totals[:3])


def test_the_learning_rate_warms_up_and_falls():
    config = TrainConfig(warmup=0.1, learning_rate=1.0)
    rates = [learning_rate(config, share) for share in (0.0, 0.05, 0.1, 0.5, 1.0)]
    assert rates[0] == 0
    assert rates[1] == pytest.approx(0.5)
    assert rates[2] == max(rates)
    assert rates[4] == pytest.approx(0.02)


def test_validation_measures_a_network_and_its_plainest_rival():
    from scal3r_ros.training.validate import validate
    from test.conftest import ROOT

    result = validate(ROOT / "scal3r_ros" / "weights" / "nano.safetensors", clips_per_family=1)
    assert result["clips"] == len(FAMILIES)
    assert 0 < result["abs_rel"] < 1
    assert result["abs_rel_ramp"] > 0
    assert 0 < result["rotation_deg"] < 60
