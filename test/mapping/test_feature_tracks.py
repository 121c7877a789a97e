"""Tracks through a real image that is turned by known homographies."""

import cv2
import numpy as np
import pytest

from scal3r_ros.geometry.camera import intrinsics
from scal3r_ros.mapping.config import RefinementConfig
from scal3r_ros.mapping.feature_tracks import (
    WEAK_COUNT,
    FeatureTracker,
    TrackedFrame,
    follow,
    spread_corners,
)
from scal3r_ros.mapping.types import Frame
from test.conftest import OFFICE

CONFIG = RefinementConfig()


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    image = cv2.imread(str(OFFICE / "images" / "000120.jpg"))
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


def turn(image: np.ndarray, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """What a camera sees that turned about its vertical axis, and the homography (cv2 pixels)."""
    height, width = image.shape[:2]
    K = intrinsics(0.9 * width, 0.9 * width, width / 2 - 0.5, height / 2 - 0.5)
    R = cv2.Rodrigues(np.array([0, np.radians(degrees), 0]))[0]
    H = K @ R @ np.linalg.inv(K)
    return np.asarray(cv2.warpPerspective(image, H, (width, height))), H


def track_features(images: list[np.ndarray]):
    return FeatureTracker().track(named(images), CONFIG)


def named(images: list[np.ndarray], first: int = 0) -> list[Frame]:
    return [Frame(first + i, i, image, None) for i, image in enumerate(images)]


def errors(tracks, H: np.ndarray) -> np.ndarray:
    """Distance of every two-frame track from where the homography puts it, pixels."""
    first, second = (tracks.select(tracks.frame >= 0), tracks.frame)
    rows = np.flatnonzero((second[:-1] == 0) & (second[1:] == 1))
    rows = rows[first.track[rows] == first.track[rows + 1]]
    a, b = first.uv[rows] - 0.5, first.uv[rows + 1] - 0.5
    expected = cv2.perspectiveTransform(a[:, None], H)[:, 0]
    return np.linalg.norm(b - expected, axis=1)


def test_a_small_turn_is_followed_to_a_fraction_of_a_pixel(photograph):
    turned, H = turn(photograph, 2.0)
    error = errors(track_features([photograph, turned]), H)
    assert len(error) > 150
    assert np.median(error) < 0.15


def test_a_leap_with_blur_is_bridged(photograph):
    """Lucas-Kanade alone loses nearly everything; SIFT carries the link."""
    turned, H = turn(photograph, 25.0)
    blurred = cv2.blur(turned, (13, 1))
    greys = [cv2.cvtColor(i, cv2.COLOR_RGB2GRAY) for i in (photograph, blurred)]
    corners = spread_corners(greys[0], np.zeros((0, 2), np.float32), CONFIG)
    assert follow(*greys, corners)[1].sum() < WEAK_COUNT
    error = errors(track_features([photograph, blurred]), H)
    assert (error < 3).sum() > 30
    assert np.median(error) < 2


@pytest.mark.parametrize("size", [(360, 480), (481, 641), (150, 200)])
def test_features_lie_where_the_image_has_them(rng, size):
    """SIFT sees half of a large image; blobs stay where they are, to a tenth of a pixel."""
    v, u = np.indices(size) + 0.5
    centres = np.stack(np.meshgrid(np.arange(30, size[1] - 30, 40), [40, 80, 120]), -1)
    centres = centres.reshape(-1, 2) + rng.uniform(-4, 4, (centres.size // 2, 2))
    image = np.full(size, 40.0)
    for x, y in centres:
        image += 180 * np.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * 4.0**2))
    names, nowhere = np.zeros(0, np.int64), np.zeros((0, 2), np.float32)
    frame = TrackedFrame(0, image.clip(0, 255).astype(np.uint8), names, nowhere, False)
    off = frame.features().uv[:, None] - centres
    nearest = off[np.arange(len(off)), np.linalg.norm(off, axis=2).argmin(axis=1)]
    near = nearest[np.linalg.norm(nearest, axis=1) < 2]
    assert len(near) >= 0.8 * len(centres)
    assert np.abs(np.median(near, axis=0)).max() < 0.1


def test_chance_matches_are_no_bridge(photograph):
    """Two different places: nothing is claimed to be the same."""
    other = cv2.imread(str(OFFICE / "images" / "000020.jpg"))
    assert track_features([photograph, other]).count < 5


def test_images_of_nothing_give_no_tracks():
    black = np.zeros((120, 160, 3), np.uint8)
    assert track_features([black] * 4).count == 0


def test_shared_frames_keep_their_tracks_and_are_not_followed_again(photograph):
    """The chunk before saw five images; of the next one, which shares three, the pictures of the
    shared frames are not even looked at."""
    images = [turn(photograph, 1.5 * k)[0] for k in range(7)]
    tracker = FeatureTracker()
    before = tracker.track(named(images[:5]), CONFIG)
    nothing = np.zeros_like(photograph)
    after = tracker.track(named([nothing, nothing, nothing, *images[5:]], first=2), CONFIG)
    seen_before = sorted(map(tuple, before.uv[before.frame == 3].tolist()))
    seen_again = sorted(map(tuple, after.uv[after.frame == 1].tolist()))
    assert len(set(seen_before) & set(seen_again)) > 0.9 * len(seen_before)
    lengths = np.bincount(after.track)
    assert (lengths == 5).sum() > 100  # from the shared frames into the new ones


def test_other_frames_are_a_new_beginning(photograph):
    images = [turn(photograph, 1.5 * k)[0] for k in range(4)]
    tracker = FeatureTracker()
    tracker.track(named(images), CONFIG)
    apart = tracker.track(named(images, first=9), CONFIG)
    fresh = FeatureTracker().track(named(images), CONFIG)
    np.testing.assert_array_equal(apart.uv, fresh.uv)
    tracker.track(named(images), CONFIG)
    small = [image[::2, ::2] for image in images]  # the camera's size changed
    assert tracker.track(named(small), CONFIG).size == (small[0].shape[0], small[0].shape[1])
