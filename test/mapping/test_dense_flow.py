"""Depth by optical flow on a rendered walk whose depth and poses are known."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from scal3r_ros.mapping import dense_flow
from scal3r_ros.mapping.dense_flow import (
    FLOW_SIGMA_PX,
    DenseMatcher,
    FlowDepth,
    Match,
    View,
    _chained,
    _fused,
    grid,
    matching_size,
    triangulated,
)
from scal3r_ros.mapping.depth_correction import _flow_depths
from scal3r_ros.mapping.types import Chunk
from test.conftest import TruthPredictor


@pytest.fixture(scope="module")
def views(walk) -> list[View]:
    return seen(walk, range(8, 40, 4))


def seen(walk, indices: range) -> list[View]:
    """Frames of the walk at their true poses."""
    frames = (walk.frames[k] for k in indices)
    return [
        View(
            f.index,
            cv2.cvtColor(f.image, cv2.COLOR_RGB2GRAY),
            f.K,
            walk.T_world_cam[f.index],
            float(np.median(walk.clip.depth[f.index].numpy())),
        )
        for f in frames
    ]


def told(found: FlowDepth, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of which pixels something is said, and how far it is off, in deviations."""
    use = (found.information > 0) & (truth > 0)
    error = np.abs(found.log_depth[use] - np.log(truth[use]))
    return use, error * np.sqrt(found.information[use])


def test_flow_knows_how_far_it_is_off(views, walk):
    """Depth for a good part of the pixels; half of the errors are within 0.7 of the deviation that
    is claimed (0.67 for a normal distribution), nine of ten within two (1.64)."""
    errors, claimed = [], []
    for view, found in zip(views, DenseMatcher().flow_depths(views), strict=True):
        use, error = told(found, walk.clip.depth[view.name].numpy())
        errors.append(error)
        claimed.append(use.mean())
    errors = np.concatenate(errors)
    assert np.mean(claimed) > 0.3
    assert np.median(errors) < 0.7
    assert np.quantile(errors, 0.9) < 2


def _true_match(a: View, b: View, depth: np.ndarray) -> Match:
    height, width = depth.shape
    uv = np.concatenate([grid(height, width), np.ones((1, height, width))]).reshape(3, -1)
    p = np.linalg.inv(a.K) @ uv * depth.reshape(-1)
    T = np.linalg.inv(b.T_submap_cam) @ a.T_submap_cam
    q = b.K @ (T[:3, :3] @ p + T[:3, 3:])
    return Match((q[:2] / q[2]).reshape(2, height, width).astype(np.float32), depth > 0)


def test_a_true_match_gives_true_depth(views, walk):
    """Without flow: every pixel's true position in the other view, from depth and pose."""
    a, b = views[0], views[3]
    depth = walk.clip.depth[a.name].numpy().astype(np.float64)
    log_depth, information = triangulated(_true_match(a, b, depth), a, b)
    use = information > 0
    assert use.mean() > 0.5
    np.testing.assert_allclose(np.exp(log_depth[use]), depth[use], rtol=5e-3)


def test_a_camera_that_only_turns_learns_no_depth(views):
    """Every view at the same place: there is no parallax to triangulate from."""
    still = [replace(view, T_submap_cam=views[0].T_submap_cam) for view in views]
    assert all((depth.information == 0).all() for depth in DenseMatcher().flow_depths(still))


def test_a_camera_that_hardly_moves_compares_frames_farther_apart(views, walk, monkeypatch):
    """Every image of the walk, a step of which shows too little parallax: flow from image to image
    leads to one that shows more, and each step adds its noise. One that is enough stays."""
    near = seen(walk, range(8, 24))
    truth = np.concatenate([walk.clip.depth[view.name].numpy() for view in near])

    def known(steps: int, views: list[View]) -> FlowDepth:
        monkeypatch.setattr(dense_flow, "MAX_STEPS", steps)
        found = DenseMatcher().flow_depths(views)
        maps = ([f.log_depth for f in found], [f.information for f in found])
        return FlowDepth(*map(np.concatenate, maps))  # one below the other

    alone, farther = known(1, near), known(4, near)
    (use_alone, error_alone), (use, error) = told(alone, truth), told(farther, truth)
    off_alone = error_alone / np.sqrt(alone.information[use_alone])
    off = error / np.sqrt(farther.information[use])
    both = use & use_alone
    assert use.mean() > 2 * use_alone.mean()
    assert np.median(off) < 0.75 * np.median(off_alone)
    assert np.quantile(error, 0.9) < 2
    surer = np.median(farther.information[both] / alone.information[both])
    assert 1.5 < surer < 3  # 7 were noise not counted for every step
    np.testing.assert_array_equal(known(1, views).information, known(4, views).information)


def test_a_chain_is_valid_where_all_of_its_links_are():
    """Ten pixels to the right, then three down; both are unknown in a part of the image."""
    start = grid(40, 60)
    right = np.array([10, 0], np.float32)[:, None, None]
    down = np.array([0, 3], np.float32)[:, None, None]
    first, then = (Match(start + way, np.ones((40, 60), bool)) for way in (right, down))
    first.valid[:, :5], then.valid[20:, :30] = False, False
    found = _chained(first, then)
    expected = np.ones((40, 60), bool)
    expected[:, :5], expected[20:, :20], expected[:, 50:] = False, False, False
    np.testing.assert_array_equal(found.valid, expected)
    np.testing.assert_allclose(
        found.uv[:, expected], (start + right + down)[:, expected], atol=1e-4
    )


def test_shared_frames_are_matched_once_and_follow_new_poses(views):
    """Matches are facts of images: known ones are used with whatever poses come, the pictures are
    not matched again. Here the second chunk's are all alike, and its way is twice as long."""
    matcher = DenseMatcher()
    first = matcher.flow_depths(views[:6])
    alike = views[0].grey
    shared = []
    for view in views[2:6]:
        T = view.T_submap_cam.copy()
        T[:3, 3] *= 2
        shared.append(replace(view, grey=alike, T_submap_cam=T, distance=2 * view.distance))
    second = matcher.flow_depths(shared)
    both = (first[3].information > 0) & (second[1].information > 0)
    ratio = np.exp(second[1].log_depth[both] - first[3].log_depth[both])
    assert both.mean() > 0.2
    assert abs(np.median(ratio) - 2) < 0.05


@pytest.mark.parametrize("width", [256, 77])
def test_large_images_are_matched_small(walk, monkeypatch, width):
    """Depth twice as wide as what may be matched is told at its own size, and as honestly."""
    monkeypatch.setattr(dense_flow, "MAX_WIDTH", width)
    chunk = Chunk(0, tuple(walk.frames[8:40:4]), 0, 3)
    prediction, _ = TruthPredictor(walk.clip, scales=(1.0,)).predict(chunk, 0)
    errors = []
    greys = [cv2.cvtColor(f.image, cv2.COLOR_RGB2GRAY) for f in chunk.frames]
    found_depths = _flow_depths(chunk, prediction, DenseMatcher(), greys)
    for truth, found in zip(prediction.depth, found_depths, strict=True):
        assert found.log_depth.shape == truth.shape
        errors.append(told(found, truth)[1])
    assert matching_size(*prediction.depth.shape[1:])[1] == min(width, 154)
    assert sum(map(len, errors)) > 0.2 * prediction.depth.size
    assert np.median(np.concatenate(errors)) < 0.7


def test_two_views_agree_or_say_nothing():
    """Pixels: seen alike by both, otherwise, by one, by none."""
    a = np.array([[1.0, 1.0, 2.0, 0.0]], np.float32), np.array([[1.0, 4.0, 6.0, 0.0]], np.float32)
    b = np.array([[1.1, 1.5, 0.0, 0.0]], np.float32), np.array([[3.0, 4.0, 0.0, 0.0]], np.float32)
    both, first_alone = _fused([a, b]), _fused([a])
    np.testing.assert_allclose(both.information, [[4.0, 0.0, 3.0, 0.0]])
    np.testing.assert_allclose(both.log_depth[0, [0, 2]], [1.075, 2.0], rtol=1e-6)
    np.testing.assert_allclose(first_alone.information, a[1] / 2)
    np.testing.assert_array_equal(first_alone.log_depth, a[0])


def test_noise_alone_brings_nothing_nearer(views, walk):
    """Positions in the other view that are off by noise, one draw for every block of nine pixels
    as flow's errors are: far points, of little parallax, are not chosen for erring nearer."""
    a, T = views[0], views[0].T_submap_cam.copy()
    T[:3, 3] += 0.3 * (views[1].T_submap_cam[:3, 3] - T[:3, 3])
    b = replace(a, name=1, T_submap_cam=T)
    depth = walk.clip.depth[a.name].numpy().astype(np.float64)
    truth = _true_match(a, b, depth)
    rng, errors, weights = np.random.default_rng(3), [], []
    height, width = depth.shape
    for _ in range(20):
        coarse = rng.normal(0, FLOW_SIGMA_PX, (2, height // 9 + 1, width // 9 + 1))
        noise = coarse.repeat(9, 1).repeat(9, 2)[:, :height, :width].astype(np.float32)
        log_depth, information = triangulated(Match(truth.uv + noise, truth.valid), a, b)
        use = information > 0
        errors.append((log_depth - np.log(depth))[use])
        weights.append(information[use])
    errors, weights = np.concatenate(errors), np.concatenate(weights)
    assert abs(np.median(errors)) < 0.02
    assert abs(np.average(errors, weights=weights)) < 0.02
