"""Words tell places apart; they are learnt, not drawn."""

import cv2
import numpy as np
import pytest

from scal3r_ros.data.sequence import open_sequence
from scal3r_ros.data.tum import read_trajectory
from scal3r_ros.evaluation.loops import _same_place, _true_poses
from scal3r_ros.mapping.place_words import describe_place, learn_words, place_words, root_sift
from scal3r_ros.mapping.places import Descriptors
from scal3r_ros.mapping.shelf import Shelf
from test.conftest import ROOT

HOLOLENS = ROOT.parent / "shared" / "data" / "dev" / "hololens_office"


def test_a_place_is_known_again_in_another_light_and_from_another_side(walk):
    """Of 15 images of a walk, each seen again smaller, darker and turned by four degrees."""
    images = [f.image for f in walk.frames[::4]]
    places = Descriptors(Shelf())
    for image in images:
        places.append(describe_place(image, place_words()))
    for image in images:
        turn = cv2.getRotationMatrix2D((77, 56), 4, 0.9)
        seen = cv2.warpAffine(image, turn, (154, 112), borderMode=cv2.BORDER_REFLECT)
        described = describe_place((seen * 0.6).astype(np.uint8), place_words())
        assert np.linalg.norm(described) == pytest.approx(1, abs=1e-5)
        places.append(described)
    count = len(images)
    nearest = places.likeness(0)[count:, :count].argmax(axis=1)
    assert (nearest == np.arange(count)).mean() > 0.9


def test_an_image_without_features_is_like_no_other(walk):
    words = place_words()
    blank = np.full((112, 154, 3), 128, np.uint8)
    assert not describe_place(blank, words).any()
    places = Descriptors(Shelf())
    for image in (blank, walk.frames[0].image, blank, walk.frames[30].image):
        places.append(describe_place(image, words))
    likeness = places.likeness(0)
    assert not likeness[[0, 2]].any() and not likeness[:, [0, 2]].any()
    assert likeness[1, 1] == pytest.approx(1, abs=1e-5)


def test_words_are_centres_of_what_images_hold(walk):
    images = [f.image for f in walk.frames[::6]]
    words = learn_words(images, 8, seed=3)
    np.testing.assert_array_equal(words, learn_words(images, 8, seed=3))
    features = np.concatenate([root_sift(image) for image in images])

    def spread(centres: np.ndarray) -> float:
        apart = (features[:, None] - centres[None]) ** 2
        return float(apart.sum(axis=2).min(axis=1).mean())

    drawn = features[np.random.default_rng(0).permutation(len(features))[:8]]
    assert spread(words) < 0.85 * spread(drawn)


@pytest.mark.skipif(not HOLOLENS.exists(), reason="needs the recorded sequences of development")
def test_places_of_a_real_walk_are_found_again():
    """Of every third image the nearest among those a good while before, where one is of the same
    place; by the small network's tokens it is the right one for a quarter."""
    frames = list(open_sequence(HOLOLENS))[::3]
    truth = read_trajectory(HOLOLENS / "groundtruth.txt")
    poses = _true_poses(truth, [f.stamp_ns for f in frames])
    places = Descriptors(Shelf())
    for frame in frames:
        places.append(describe_place(frame.image, place_words()))
    late = np.subtract.outer(np.arange(len(frames)), np.arange(len(frames))) >= 10
    same = _same_place(poses, poses, 1.0) & late
    asked = np.flatnonzero(same.any(axis=1))
    nearest = np.where(late, places.likeness(0), -1).argmax(axis=1)
    assert len(asked) >= 10
    assert same[asked, nearest[asked]].mean() > 0.4
