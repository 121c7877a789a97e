"""What cameras and networks do at their worst: nothing crashes, nothing is corrupted silently."""

from collections.abc import Callable
from dataclasses import replace

import cv2
import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scal3r_ros.evaluation.long_run import DISTANCE, FOCAL, STEP_PX, SimulatedNetwork, wall
from scal3r_ros.evaluation.trajectory import evaluate
from scal3r_ros.mapping.config import ChunkConfig, KeyframeConfig, MapperConfig
from scal3r_ros.mapping.mapper import Mapper
from scal3r_ros.mapping.pipeline import MappedSequence, map_sequence
from scal3r_ros.mapping.types import Frame, Prediction, PredictionError
from scal3r_ros.tracking.tracker import Tracker
from scal3r_ros.tracking.types import TrackerConfig
from test.conftest import TruthPredictor, World

CONFIG = MapperConfig(
    chunks=ChunkConfig(8, 4, 6), keyframes=KeyframeConfig(min_flow=0.01, standstill_flow=0.002)
)


def covered(frames: list[Frame]) -> list[Frame]:
    """A hand on the lens for 3 s of 5 Hz."""
    slow = [replace(f, stamp_ns=10**9 + f.index * 2 * 10**8) for f in frames]
    return [replace(f, image=np.zeros_like(f.image)) if 25 <= f.index < 40 else f for f in slow]


def darker(frames: list[Frame]) -> list[Frame]:
    """The exposure jumps to a third."""
    return [replace(f, image=f.image // 3) if f.index >= 30 else f for f in frames]


def half_hidden(frames: list[Frame]) -> list[Frame]:
    """Something with a pattern of its own passes by and fills half of the image."""
    texture = np.random.default_rng(1).integers(0, 255, (40, 400, 3), np.uint8)
    texture = cv2.resize(texture, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)

    def hidden(frame: Frame) -> Frame:
        if not 20 <= frame.index < 45:
            return frame
        image = frame.image.copy()
        height, width = image.shape[:2]
        begin = 9 * (frame.index - 20)
        image[:, : width // 2] = texture[:height, begin : begin + width // 2]
        return replace(frame, image=image)

    return [hidden(f) for f in frames]


def slower(frames: list[Frame]) -> list[Frame]:
    """A third of the frame rate from the middle on."""
    return [f for f in frames if f.index < 30 or f.index % 3 == 0]


def noisy(frames: list[Frame]) -> list[Frame]:
    """Sensor noise of a dark room."""
    rng = np.random.default_rng(2)
    return [
        replace(f, image=np.clip(f.image + rng.normal(0, 12, f.image.shape), 0, 255).astype("u1"))
        for f in frames
    ]


def mapped(walk: World, frames: list[Frame]) -> tuple[Mapper, MappedSequence]:
    mapper = Mapper(TruthPredictor(walk.clip), CONFIG)
    return mapper, map_sequence(frames, mapper, Tracker(TrackerConfig()))


@pytest.mark.parametrize(
    ("disturbed", "share"),
    [(covered, 0.15), (darker, 0.03), (half_hidden, 0.1), (slower, 0.03), (noisy, 0.05)],
)
def test_the_map_survives(walk, disturbed: Callable[[list[Frame]], list[Frame]], share: float):
    """The error of the trajectory stays a small share of the path, and every image has a pose."""
    frames = disturbed(walk.frames)
    mapper, result = mapped(walk, frames)
    trajectory = result.trajectory(mapper)
    assert len(trajectory) == len(frames)
    assert all(np.isfinite(T).all() for T in trajectory.values())
    truth = {f.stamp_ns: walk.T_world_cam[f.index] for f in frames}
    errors = evaluate(truth, trajectory)
    assert errors.ate_share < share
    assert all(np.isfinite(c.xyz).all() for c in mapper.point_map.clouds.values())


def test_a_flat_wall_is_mapped_flat():
    """Nothing but one plane in sight, where many ways of finding poses are degenerate; the network
    errs by a fifth in scale from chunk to chunk."""
    mapper = Mapper(SimulatedNetwork(1), CONFIG)
    frames = list(wall(80, 1))
    result = map_sequence(frames, mapper, Tracker(TrackerConfig()))
    trajectory, truth = result.trajectory(mapper), {}
    for frame in frames:
        truth[frame.stamp_ns] = np.eye(4)
        truth[frame.stamp_ns][0, 3] = frame.index * STEP_PX / FOCAL * DISTANCE
    errors = evaluate(truth, trajectory)
    assert errors.ate_share < 0.02
    xyz = mapper.point_map.cloud().xyz.astype(np.float64)
    middle = xyz - xyz.mean(axis=0)
    thickness = np.linalg.svd(middle, full_matrices=False)[1][2] / np.sqrt(len(xyz))
    assert thickness * errors.scale < 0.02 * DISTANCE  # twice the network's noise


def test_a_camera_that_stands_still_grows_no_map_and_does_not_drift(walk):
    """Half a minute before the same scene, with the noise of a sensor."""
    rng = np.random.default_rng(3)
    still = [
        replace(
            walk.frames[29],
            index=30 + k,
            stamp_ns=walk.frames[29].stamp_ns + (k + 1) * 10**8,
            image=np.clip(walk.frames[29].image + rng.normal(0, 2, (112, 154, 3)), 0, 255).astype(
                np.uint8
            ),
        )
        for k in range(300)
    ]
    mapper, result = mapped(walk, [*walk.frames[:30], *still])
    assert mapper.counters.keyframes <= 32
    poses = [T[:3, 3] for stamp, T in sorted(result.odometry().items())][-300:]
    step = np.linalg.norm(walk.T_world_cam[29, :3, 3] - walk.T_world_cam[28, :3, 3])
    assert np.ptp(poses, axis=0).max() < 2 * step


def test_a_camera_that_only_turns_is_followed(walk):
    """No parallax at all: rotation is measured, the place stays."""
    frame = walk.frames[0]
    K = frame.K
    assert K is not None
    angles = np.deg2rad(np.linspace(0, 25, 40))
    turned = []
    for k, angle in enumerate(angles):
        R = cv2.Rodrigues(np.array([0.0, angle, 0.0]))[0]
        H = K @ R.T @ np.linalg.inv(K)
        image = cv2.warpPerspective(frame.image, H, (154, 112), borderMode=cv2.BORDER_REFLECT)
        turned.append(Frame(k, 10**9 + k * 10**8, np.asarray(image), K))

    class Turning(TruthPredictor):
        def predict(self, chunk, memory, *, write=True):
            prediction, memory = super().predict(chunk, memory, write=write)
            rows = [f.index for f in chunk.frames]
            T = np.tile(np.eye(4), (len(rows), 1, 1))
            for k, row in enumerate(rows):
                turn = angles[row] - angles[chunk.frames[chunk.reference].index]
                T[k, :3, :3] = cv2.Rodrigues(np.array([0.0, turn, 0.0]))[0]
            depth = np.full_like(prediction.depth, 2.0)
            return replace(prediction, T_submap_cam=T, depth=depth), memory

    mapper = Mapper(Turning(walk.clip), CONFIG)
    result = map_sequence(turned, mapper, Tracker(TrackerConfig()))
    poses = [T for _, T in sorted(result.trajectory(mapper).items())]
    whole = np.degrees(np.arccos((np.trace(poses[0][:3, :3].T @ poses[-1][:3, :3]) - 1) / 2))
    assert whole == pytest.approx(25, abs=3)
    assert np.ptp([T[:3, 3] for T in poses], axis=0).max() < 0.1 * 2.0


GOOD = {
    "depth": np.full((3, 4, 5), 2.0, np.float32),
    "confidence": np.full((3, 4, 5), 2.0, np.float32),
    "edge_certainty": np.ones((3, 4, 5), np.float32),
    "K": np.tile(np.array([[5.0, 0, 2.5], [0, 5.0, 2.0], [0, 0, 1]]), (3, 1, 1)),
    "T_submap_cam": np.tile(np.eye(4), (3, 1, 1)),
    "descriptors": np.ones((3, 6), np.float32),
}


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(GOOD)),
    st.sampled_from([np.nan, np.inf, -np.inf]),
    st.integers(0, 10**6),
)
def test_a_value_that_is_no_number_is_refused_by_its_name(name, value, place):
    broken = GOOD[name].copy()
    broken.reshape(-1)[place % broken.size] = value
    with pytest.raises(PredictionError, match=f"prediction.{name} must be finite"):
        Prediction(**GOOD | {name: broken})


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(GOOD)), st.integers(0, 2), st.integers(1, 3))
def test_a_wrong_shape_is_refused_by_its_name(name, axis, more):
    """By the class itself, for users who run without type checks."""
    axis = min(axis, GOOD[name].ndim - 1)
    if name == "descriptors" and axis == 1:
        return  # of any length
    wider = np.concatenate([GOOD[name]] + [GOOD[name].take([0] * more, axis=axis)], axis=axis)
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(PredictionError, match="prediction.* must be"):
            Prediction(**GOOD | {name: wider})
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("depth", 0.0, "prediction.depth holds no depth"),
        ("depth", -1.0, "prediction.depth must not be negative"),
        ("confidence", 0.5, "prediction.confidence must be at least 1"),
        ("edge_certainty", 1.5, "prediction.edge_certainty must be in"),
        ("K", 0.0, "prediction.K must have positive focal lengths"),
        ("T_submap_cam", 2.0, "prediction.T_submap_cam must be rigid"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_its_name(name, value, said):
    with pytest.raises(PredictionError, match=said):
        Prediction(**GOOD | {name: np.full_like(GOOD[name], value)})
