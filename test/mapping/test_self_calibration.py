"""A camera that nobody calibrated: the network guesses its focal length, the map finds it."""

from dataclasses import replace

import numpy as np
import pytest

from scal3r_ros.evaluation.trajectory import evaluate
from scal3r_ros.mapping.config import ChunkConfig, KeyframeConfig, LoopConfig, MapperConfig
from scal3r_ros.mapping.mapper import Mapper
from scal3r_ros.mapping.pipeline import map_sequence
from scal3r_ros.mapping.self_calibration import CHUNK, GUESS, KNOWN, MODESTY, SelfCalibration
from scal3r_ros.mapping.types import Chunk, Frame
from test.conftest import TruthPredictor

CONFIG = MapperConfig(
    keyframes=KeyframeConfig(min_flow=0.005),
    chunks=ChunkConfig(size=8, overlap=4, first_size=8),
    loops=LoopConfig(enabled=False),
)
WRONG = 1.25  # times the true focal length
DENSE = ("depth", "confidence", "edge_certainty")


class Guessing(TruthPredictor):
    """Its focal length is wrong, another one for every frame."""

    def predict(self, chunk, memory, *, write=True):
        prediction, memory = super().predict(chunk, memory, write=write)
        scatter = np.random.default_rng(chunk.index).normal(1, 0.02, len(chunk.frames))
        K = prediction.K.copy()
        K[:, [0, 1], [0, 1]] *= WRONG * scatter[:, None]
        return replace(prediction, K=K), memory


def test_the_focal_length_is_found_and_the_way_with_it(walk):
    """Sixty images of a camera whose K nobody tells: after them the focal length is known, and the
    way nearly as good as with the true K."""
    bare = [replace(f, K=None) for f in walk.frames]
    truth = {f.stamp_ns: T for f, T in zip(walk.frames, walk.T_world_cam, strict=True)}
    errors = {}
    for name, frames in (("calibrated", walk.frames), ("not calibrated", bare)):
        mapper = Mapper(Guessing(walk.clip), CONFIG)
        map_sequence(frames, mapper, None)
        errors[name] = evaluate(truth, dict(mapper.keyframe_stamped_poses()))
    found = mapper.refiner.calibration
    true = walk.clip.K[0, 0, 0].item() / walk.clip.images.shape[2]
    assert found.focal == pytest.approx(true, rel=0.05)
    assert abs(np.log(found.focal / true)) < 2 * found.deviation < 2 * GUESS
    last = mapper.submaps[-1]
    assert last.K[0, 0, 0] == pytest.approx(walk.clip.K[0, 0, 0].item(), rel=0.05)
    assert (last.K[0] == last.K).all()
    scale = np.linalg.norm(np.ptp(walk.T_world_cam[:, :3, 3], axis=0))
    assert errors["not calibrated"].ate_rmse < errors["calibrated"].ate_rmse + 0.03 * scale


def chunk(K: np.ndarray | None) -> Chunk:
    frames = [Frame(i, i, np.zeros((60, 80, 3), np.uint8), K) for i in range(2)]
    return Chunk(0, tuple(frames), 0, 0)


def test_a_calibrated_camera_is_left_alone(walk):
    calibration = SelfCalibration()
    known = chunk(np.diag([70.0, 70.0, 1.0]))
    prediction, _ = Guessing(walk.clip).predict(known, 0)
    assert calibration.apply(known, prediction) is prediction
    assert calibration.sigma(known) == 0.0
    assert calibration.focal is None


def test_chunks_that_agree_make_it_known_and_one_that_does_not_hardly_moves_it(walk):
    calibration = SelfCalibration()
    bare = chunk(None)
    prediction, _ = Guessing(walk.clip).predict(bare, 0)
    calibration.apply(bare, prediction)
    first = calibration.focal
    rounds = 0
    while (sigma := calibration.sigma(bare)) > 0:
        towards = np.log(1.1 * first / calibration.focal)  # all of them see it 10 % longer
        precise = (sigma**-2 + 0.003**-2) ** -0.5
        calibration.learn(towards * precise**2 / 0.003**2, precise)
        rounds += 1
    assert 2 <= rounds <= (CHUNK**2 + (MODESTY * 0.003) ** 2) / KNOWN**2 + 1
    assert calibration.focal == pytest.approx(1.1 * first, rel=0.01)
    before = calibration.focal
    precise = ((MODESTY / KNOWN) ** 2 + 0.003**-2) ** -0.5
    calibration.learn(0.6 * precise**2 / 0.003**2, precise)
    assert abs(np.log(calibration.focal / before)) < 0.6 / 10


def test_images_that_say_nothing_change_nothing(walk):
    calibration = SelfCalibration()
    bare = chunk(None)
    prediction, _ = Guessing(walk.clip).predict(bare, 0)
    calibration.apply(bare, prediction)
    before = calibration.focal, calibration.deviation
    calibration.learn(0.3, calibration.sigma(bare))
    assert (calibration.focal, calibration.deviation) == before


def test_pixels_that_the_network_stretched_stay_square(walk):
    """A 60 x 80 image that the network sees as 112 x 154: 3 % wider than high."""
    bare = chunk(None)
    prediction, _ = Guessing(walk.clip).predict(bare, 0)
    K = SelfCalibration().apply(bare, prediction).K[0]
    height, width = prediction.depth.shape[1:]
    assert K[0, 0] / width * 80 == pytest.approx(K[1, 1] / height * 60)
    np.testing.assert_allclose(K[:2, 2], [width / 2, height / 2])
    assert K[2].tolist() == [0, 0, 1]


def test_an_image_of_another_shape_is_another_camera(walk):
    """Turned to portrait, or cut otherwise: what the focal length was in widths says nothing."""
    chunk = Chunk(0, tuple(walk.frames[:4]), 0, 2)
    frames = tuple(replace(f, K=None) for f in chunk.frames)
    prediction, _ = TruthPredictor(walk.clip).predict(chunk, 0)
    calibration = SelfCalibration()
    calibration.apply(replace(chunk, frames=frames), prediction)
    for _ in range(30):
        calibration.learn(0.0, 0.002)
    assert calibration.sigma(replace(chunk, frames=frames)) == 0
    turned = tuple(replace(f, image=np.rot90(f.image)) for f in frames)
    arrays = {n: np.rot90(getattr(prediction, n), axes=(1, 2)).copy() for n in DENSE}
    portrait = replace(prediction, **arrays)
    K = calibration.apply(replace(chunk, frames=turned), portrait).K
    np.testing.assert_allclose(K[0, 0, 0], np.median(prediction.K[:, 0, 0]), rtol=1e-6)
    assert calibration.sigma(replace(chunk, frames=turned)) > 0
