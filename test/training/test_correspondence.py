"""Where attention is told to look: against the geometry room's own projection."""

import numpy as np
import pytest
import torch

from scal3r_ros.geometry.camera import project, transform_points, unproject
from scal3r_ros.geometry.sim3 import invert_pose
from scal3r_ros.network.scal3r import ChunkImages, Scal3R, Scal3RConfig
from scal3r_ros.training.correspondence import AttentionProbe, patch_targets
from scal3r_ros.training.samples import PATCH, chunk_sample
from scal3r_ros.training.world import render_clip

ROWS, COLUMNS, FRAMES = 6, 8, 3


@pytest.fixture(scope="module")
def clip():
    size = (ROWS * PATCH, COLUMNS * PATCH)
    return render_clip(33, FRAMES, *size, family="room", degradation="none", stride=1.5)


def test_targets_are_where_a_patch_is_seen_in_the_reference(clip):
    sample = chunk_sample([clip], 0, FRAMES, 0)
    weights, visible = patch_targets(sample)
    reference, n = sample.reference, ROWS * COLUMNS
    assert not visible[0, reference * n : (reference + 1) * n].any()
    K, T = clip.K.double().numpy(), clip.T_world_cam.double().numpy()
    v, u = (np.indices((ROWS, COLUMNS)).reshape(2, -1) + 0.5) * PATCH
    centres = np.stack([u, v], axis=1)
    for frame in set(range(FRAMES)) - {reference}:
        seen = visible[0, frame * n : (frame + 1) * n].numpy()
        told = weights[0, frame * n : (frame + 1) * n].double().numpy()
        np.testing.assert_allclose(told.sum(axis=1), 1, atol=1e-6)
        xyz = unproject(clip.depth[frame].double().numpy(), K[frame])[PATCH // 2 :: PATCH]
        xyz = xyz[:, PATCH // 2 :: PATCH].reshape(-1, 3)
        uv = project(transform_points(invert_pose(T[reference]) @ T[frame], xyz), K[reference])
        # not in the outermost half patch, where there is nothing to interpolate with
        rim = np.array([COLUMNS, ROWS]) * PATCH - PATCH / 2
        seen &= (uv > PATCH / 2).all(axis=1) & (uv < rim).all(axis=1)
        assert seen.mean() > 0.2
        # principal point and pose encoding are rounded: a pixel is enough
        assert np.abs(told @ centres - uv)[seen].max() < 1.5


def test_what_is_hidden_is_no_target(clip):
    sample = chunk_sample([clip], 0, FRAMES, 0)
    sample.depth[:, sample.reference] *= 0.5
    _, visible = patch_targets(sample)
    assert not visible.any()


def test_attention_learns_where_to_look(clip):
    torch.manual_seed(0)
    model = Scal3R(Scal3RConfig.nano()).train()
    probe, sample = AttentionProbe(model, 1), chunk_sample([clip], 0, FRAMES, 0)
    optimiser, losses = torch.optim.AdamW(model.parameters(), 1e-3), []
    for _ in range(25):
        model([ChunkImages(sample.images, sample.reference, 0)])
        loss = probe.loss(sample)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 1
