"""What a place looks like, in words: features of an image summed up by a small vocabulary (VLAD,
Jegou et al., CVPR 2010; of RootSIFT, Arandjelovic and Zisserman, CVPR 2012)."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from numpy import ndarray

from scal3r_ros.mapping.local_features import local_features

WORDS = Path(__file__).parents[1] / "weights" / "place_words.npy"  # scal3r weights words
WIDTH = 160  # pixels; SIFT doubles them
FEATURES = 300
CONTRAST = 0.01  # dark rooms have weak features
LEARNT_FROM = 40_000  # features


@cache
def place_words() -> Float32[ndarray, "k 128"]:
    """The vocabulary that is part of the package."""
    return np.load(WORDS).astype(np.float32)


def describe_place(
    image: UInt8[ndarray, "h w 3"], words: Float32[ndarray, "k 128"]
) -> Float32[ndarray, " d"]:
    """Unit length, d = 128 k; zero where the image has no feature."""
    features = root_sift(image)
    described = np.zeros_like(words)
    if len(features):
        nearest = ((words**2).sum(axis=1) - 2 * features @ words.T).argmin(axis=1)
        np.add.at(described, nearest, features - words[nearest])
    lengths = np.linalg.norm(described, axis=1, keepdims=True)
    described /= np.maximum(lengths, 1e-9)  # no word outweighs another
    return described.reshape(-1) / np.sqrt(max(np.count_nonzero(lengths), 1), dtype=np.float32)


def root_sift(image: UInt8[ndarray, "h w 3"]) -> Float32[ndarray, "n 128"]:
    """The strongest features, at one width whatever the camera's."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    height = max(1, round(grey.shape[0] * WIDTH / grey.shape[1]))
    grey = cv2.resize(grey, (WIDTH, height), interpolation=cv2.INTER_AREA)
    found = local_features(np.asarray(grey), FEATURES, CONTRAST).descriptors.astype(np.float32)
    return np.sqrt(found / np.maximum(found.sum(axis=1, keepdims=True), 1e-9))


def learn_words(
    images: Iterable[UInt8[ndarray, "h w 3"]], count: int, seed: int
) -> Float32[ndarray, "k 128"]:
    """Centres of the images' features by k-means."""
    features = np.concatenate([root_sift(image) for image in images])
    features = np.random.default_rng(seed).permutation(features)[:LEARNT_FROM]
    cv2.setRNGSeed(seed)
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 50, 1e-4)
    best = np.zeros(0, np.int32)
    _, _, centres = cv2.kmeans(features, count, best, stop, 3, cv2.KMEANS_PP_CENTERS)
    return np.asarray(centres)
