"""Metres: every source finds them, the map turns metric once and keeps its scale."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation

from scal3r_ros.geometry.sim3 import Sim3
from scal3r_ros.mapping.config import (
    ConfigError,
    KeyframeConfig,
    LoopConfig,
    MapperConfig,
    RefinementConfig,
    ScaleConfig,
)
from scal3r_ros.mapping.ground import ground_plane, level
from scal3r_ros.mapping.inertial import InertialLog, fit_scale
from scal3r_ros.mapping.mapper import Mapper
from scal3r_ros.mapping.measured_depth import stereo_depth
from scal3r_ros.mapping.scale import ScaleEstimator
from scal3r_ros.mapping.scale_sources import ScaleSources
from scal3r_ros.mapping.types import Frame, MapUpdate, Submap
from test.conftest import ROOT, TruthPredictor

MOTORCYCLE = ROOT.parent / "shared" / "data" / "dev" / "sharp_depth_motorcycle"


def mapper_for(walk, **scale: object) -> Mapper:
    config = MapperConfig(
        keyframes=KeyframeConfig(min_flow=0.005),
        refinement=RefinementConfig(enabled=False),
        loops=LoopConfig(enabled=False),
        scale=ScaleConfig(lock_after=3, **scale),
    )
    return Mapper(TruthPredictor(walk.clip, scales=(3.0, 2.0, 4.0, 2.5)), config)


def run(mapper: Mapper, frames: list[Frame]) -> list[MapUpdate]:
    updates = [u for frame in frames for u in mapper.add_frame(frame)]
    return updates + mapper.flush()


def metres_per_unit(mapper: Mapper, walk) -> list[float]:
    """True length of the map's unit, from every submap."""
    found = []
    for submap in mapper.submaps:
        depth = walk.clip.depth[list(submap.frame_indices)].numpy()
        units = submap.depth.astype(np.float64) * submap.T_map_submap.s
        found.append(float(np.median(depth[units > 0] / units[units > 0])))
    return found


@pytest.mark.parametrize("source", ["depth", "odometry"])
def test_the_map_turns_metric_and_says_so(walk, source, rng):
    mapper = mapper_for(walk, source=source, min_baseline=0.2)
    frames = []
    for frame, depth, T in zip(walk.frames, walk.clip.depth, walk.T_world_cam, strict=True):
        noisy = depth.numpy() * np.exp(rng.normal(0, 0.05, depth.shape))
        noisy[::3] = 0  # a sensor has holes
        seen = {"depth": noisy.astype(np.float32)} if source == "depth" else {"T_odom_cam": T}
        frames.append(replace(frame, **seen))
    updates = run(mapper, frames)
    assert mapper.metric.metric
    np.testing.assert_allclose(metres_per_unit(mapper, walk), 1.0, atol=0.03)
    changed = [u for u in updates if u.rescaled != 1.0]
    assert len(changed) == 1
    assert set(changed[0].moved) == set(range(changed[0].submap.index))  # all others, said aloud


def test_once_locked_every_submap_keeps_its_scale(walk):
    """A chain whose overlap edges drift by 3 % each is held by the sensor."""
    mapper = mapper_for(walk, source="depth")
    drifting = mapper.graph.add_edge

    def add_edge(edge):
        T = edge.T_target_source
        drifting(replace(edge, T_target_source=Sim3(T.R, T.t, T.s * 1.03)))

    mapper.graph.add_edge = add_edge
    depths = walk.clip.depth.numpy()
    run(mapper, [replace(f, depth=d) for f, d in zip(walk.frames, depths, strict=True)])
    after = metres_per_unit(mapper, walk)[3:]
    assert len(after) >= 2
    np.testing.assert_allclose(after, 1.0, atol=0.03)


def test_without_observations_the_map_stays_unmetric(walk):
    mapper = mapper_for(walk, source="depth")
    run(mapper, walk.frames)
    assert not mapper.metric.metric


def test_a_told_scale_and_its_release(walk):
    mapper = mapper_for(walk, source="none")
    run(mapper, walk.frames[:30])
    before = metres_per_unit(mapper, walk)[0]
    mapper.set_scale(before)
    assert mapper.metric.metric
    np.testing.assert_allclose(metres_per_unit(mapper, walk), 1.0, atol=0.03)
    mapper.set_scale(0.0)
    assert not mapper.metric.metric


@pytest.mark.parametrize("told_at", [16, 48])  # before the sensor's scale is locked, and after
def test_a_told_scale_is_not_overruled_by_a_sensor(walk, told_at):
    mapper = mapper_for(walk, source="depth")
    depths = walk.clip.depth.numpy()
    frames = [replace(f, depth=d) for f, d in zip(walk.frames, depths, strict=True)]
    for frame in frames[:told_at]:
        mapper.add_frame(frame)
    assert mapper.metric.metric == (told_at > 16)
    mapper.set_scale(2 * metres_per_unit(mapper, walk)[0])
    told = len(mapper.submaps)
    run(mapper, frames[told_at:])
    assert len(mapper.submaps) > told
    np.testing.assert_allclose(metres_per_unit(mapper, walk), 0.5, atol=0.02)
    mapper.set_scale(0.0)
    assert not mapper.metric.metric


def floor_submap(height: float, unit: float, tilt: float, rng) -> Submap:
    """A level floor below, a wall ahead; the camera tilted down."""
    K = np.array([[100.0, 0, 80], [0, 100.0, 60], [0, 0, 1]])
    R = Rotation.from_euler("x", -tilt).as_matrix()  # camera in world (y down)
    u, v = np.meshgrid(np.arange(160) + 0.5, np.arange(120) + 0.5)
    rays = np.stack([(u - 80) / 100, (v - 60) / 100, np.ones_like(u)], -1) @ R.T
    floor = np.where(rays[..., 1] > 1e-6, height / np.maximum(rays[..., 1], 1e-6), np.inf)
    wall = np.where(rays[..., 2] > 0, 6.0 / rays[..., 2], np.inf)
    depth = np.minimum(floor, wall) / unit * np.exp(rng.normal(0, 0.01, u.shape))
    stack = np.stack([depth, depth]).astype(np.float16)
    ones = np.ones_like(stack)
    eyes, descriptors = np.stack([np.eye(4)] * 2), np.zeros((2, 4), np.float32)
    images = np.zeros((2, 120, 160, 3), np.uint8)
    return Submap(
        0, (0, 1), (0, 1), 0, stack, ones, ones, np.stack([K, K]), eyes, descriptors, images
    )


@pytest.mark.parametrize("tilt", [0.0, 0.2])
def test_the_ground_tells_height_and_up(rng, tilt):
    plane = ground_plane(floor_submap(1.4, 2.5, tilt, rng))
    assert plane is not None
    assert abs(1.4 / plane.height / 2.5 - 1) < 0.02
    R_map_cam = level(plane.up)
    up = R_map_cam @ Rotation.from_euler("x", tilt).as_matrix() @ [0, -1, 0]
    np.testing.assert_allclose(up, [0, 0, 1], atol=0.02)
    np.testing.assert_allclose(R_map_cam @ R_map_cam.T, np.eye(3), atol=1e-9)
    assert abs((R_map_cam @ [0, 0, 1])[1]) < 1e-9  # looks along map x


def test_no_ground_no_height(rng):
    submap = floor_submap(1.4, 1.0, 0.0, rng)
    submap.depth[:] = rng.uniform(1, 9, submap.depth.shape).astype(np.float16)
    assert ground_plane(submap) is None


def shaken(rng, unit: float, noise: float) -> tuple[InertialLog, tuple[int, ...], np.ndarray]:
    """Four seconds of an IMU; stamps and poses of nine keyframes in a unit of so many metres."""
    seconds = np.linspace(0, 4, 9)
    places = CubicSpline(seconds, rng.uniform(-1, 1, (9, 3)))
    turns = CubicSpline(seconds, rng.uniform(-0.5, 0.5, (9, 3)))
    gravity = np.array([0.0, 9.81, 0.0])  # y is down
    log = InertialLog()
    for t in np.arange(0, 4.0001, 0.005):
        R = Rotation.from_rotvec(turns(t))
        later = Rotation.from_rotvec(turns(t + 1e-4))
        gyro = (R.inv() * later).as_rotvec() / 1e-4 + rng.normal(0, 0.002, 3)
        force = R.inv().apply(places(t, 2) - gravity) + rng.normal(0, 0.05, 3)
        log.add(int(t * 1e9), gyro, force)
    T = np.tile(np.eye(4), (9, 1, 1))
    T[:, :3, :3] = Rotation.from_rotvec(turns(seconds)).as_matrix()
    T[:, :3, 3] = (places(seconds) + rng.normal(0, noise, (9, 3))) / unit
    return log, tuple(int(t * 1e9) for t in seconds), T


def test_an_imu_tells_the_scale(rng):
    fit = fit_scale(*shaken(rng, 2.5, 0.0), 0.5)
    assert fit is not None
    assert abs(fit[0] / 2.5 - 1) < 0.03


def test_noise_of_the_poses_does_not_make_an_imu_scale_small(rng):
    """Poses that err by 15 cm in steps of a metre: right in the middle of 30, as unsure as said."""
    fits = [fit for _ in range(30) if (fit := fit_scale(*shaken(rng, 2.5, 0.15), 0.5))]
    errors, deviations = np.array([(np.log(scale / 2.5), sigma) for scale, sigma in fits]).T
    assert len(fits) > 20
    assert abs(np.median(errors)) < 0.04
    assert 0.4 < np.sqrt(np.mean((errors / deviations) ** 2)) < 2


def placed(stamps_ns: list[int], T: np.ndarray) -> Submap:
    """A submap of which only stamps and poses matter."""
    s = len(stamps_ns)
    maps, K = np.ones((s, 2, 2), np.float16), np.tile(np.eye(3), (s, 1, 1))
    images, words = np.zeros((s, 2, 2, 3), np.uint8), np.zeros((s, 4), np.float32)
    numbers = tuple(range(s))
    return Submap(0, numbers, tuple(stamps_ns), 0, maps, maps, maps, K, T, words, images)


def test_up_is_the_mean_over_a_submap(rng):
    """The camera sways and is shaken while it maps; what it feels evens out over four seconds."""
    sources = ScaleSources(ScaleConfig())
    stamps = np.linspace(1, 5, 9)
    sway = CubicSpline(stamps, rng.uniform(-0.3, 0.3, (9, 3)))
    for t in np.arange(0.5, 5.5, 0.01):
        shaken = 2.0 * np.array([np.sin(7 * t), np.cos(9 * t), np.sin(11 * t)])
        R = Rotation.from_rotvec(sway(np.clip(t, 1, 5)))
        sources.imu.add(int(t * 1e9), np.zeros(3), R.inv().apply(shaken + [0, -9.81, 0]))
    T = np.tile(np.eye(4), (9, 1, 1))
    T[:, :3, :3] = Rotation.from_rotvec(sway(stamps)).as_matrix()
    up = sources.imu_up(placed((stamps * 1e9).astype(int).tolist(), T))
    assert up is not None
    assert np.degrees(np.arccos(-up[1] / np.linalg.norm(up))) < 2
    assert sources.imu_up(placed([90 * 10**9], T[:1])) is None


def test_a_camera_that_does_not_accelerate_gives_no_imu_scale(rng):
    log = InertialLog()
    for k in range(800):
        log.add(k * 5_000_000, np.zeros(3), np.array([0, -9.81, 0]) + rng.normal(0, 0.05, 3))
    T = np.tile(np.eye(4), (9, 1, 1))
    T[:, 0, 3] = np.linspace(0, 1, 9)
    stamps = tuple(int(t * 1e9) for t in np.linspace(0, 3.9, 9))
    assert fit_scale(log, stamps, T, 0.5) is None
    up = log.up(int(1e9))
    assert up is not None
    np.testing.assert_allclose(up, [0, -1, 0], atol=0.01)
    assert log.up(int(60e9)) is None


def test_stereo_of_a_plane_at_a_known_distance(rng):
    image = cv2.GaussianBlur(rng.integers(0, 255, (240, 420, 3), np.uint8), (0, 0), 1.5)
    image = cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX)
    left, right = image[:, 0:320].copy(), image[:, 20:340].copy()  # disparity 20
    K = np.array([[300.0, 0, 160], [0, 300.0, 120], [0, 0, 1]])
    depth = stereo_depth(Frame(0, 1, left, K, right=right, baseline=0.1))
    assert depth is not None
    seen = depth[:, 120:300]
    assert (seen > 0).mean() > 0.9
    assert abs(np.median(seen[seen > 0]) / (300 * 0.1 / 20) - 1) < 0.01


def test_stereo_on_a_real_pair():
    """Middlebury 2014 Motorcycle: median depth ratio within 3 % of the exact depth."""
    if not MOTORCYCLE.exists():
        pytest.skip("the real stereo pair is not on this machine")
    left, right = (
        cv2.cvtColor(cv2.imread(str(MOTORCYCLE / f"images/00000{i}.png")), cv2.COLOR_BGR2RGB)
        for i in range(2)
    )
    K = np.array([[994.978, 0, 311.693], [0, 994.978, 255.377], [0, 0, 1]])
    shift = np.array([[1.0, 0, 311.193 - 342.279], [0, 1, 0]])  # to the left image's centre
    right = cv2.warpAffine(right, shift, right.shape[1::-1])
    depth = stereo_depth(Frame(0, 1, left, K, right=right, baseline=0.193001))
    assert depth is not None
    exact = cv2.imread(str(MOTORCYCLE / "depth" / "000000.png"), cv2.IMREAD_UNCHANGED) / 1000
    exact = cv2.resize(exact, depth.shape[::-1], interpolation=cv2.INTER_NEAREST)
    both = (depth > 0) & (exact > 0)
    assert both.mean() > 0.5
    assert abs(np.median(depth[both] / exact[both]) - 1) < 0.03


def test_a_height_that_is_missing_is_refused():
    with pytest.raises(ConfigError, match="needs camera_height > 0"):
        ScaleConfig(source="camera_height")


def test_a_gyroscope_tells_the_turn_between_two_stamps(rng):
    log = InertialLog()
    seconds = np.arange(0, 1.0, 0.005)
    turns = CubicSpline(np.linspace(0, 1, 6), rng.uniform(-1, 1, (6, 3)))
    for t in seconds:
        now, later = Rotation.from_rotvec(turns(t)), Rotation.from_rotvec(turns(t + 1e-5))
        log.add(int(t * 1e9), (now.inv() * later).as_rotvec() / 1e-5, np.zeros(3))
    found = log.turn(int(0.303e9), int(0.437e9))  # between samples
    R_a, R_b = (Rotation.from_rotvec(turns(t)) for t in (0.303, 0.437))
    error = (Rotation.from_matrix(found).inv() * R_a.inv() * R_b).magnitude()
    assert np.degrees(error) < 0.2
    assert log.turn(int(5e9), int(6e9)) is None  # nothing was felt there
    assert log.turn(int(-1e9), int(0.5e9)) is None


def test_what_a_gyroscope_has_told_is_kept_where_samples_are_missing():
    """0.5 rad/s for a second: lost samples count as those beside them, for 150 ms at most, and
    what is still under way is not waited for with all that came before it."""
    log = InertialLog()
    for k in range(200):
        if not 60 <= k < 92 and not 140 <= k < 160:  # gaps of 165 and 105 ms
            log.add(k * 5_000_000, np.array([0, 0.5, 0]), np.zeros(3))

    def angle(begin_s: float, end_s: float) -> float:
        R = log.turn(int(begin_s * 1e9), int(end_s * 1e9))
        return float(Rotation.from_matrix(R).as_rotvec()[1])

    assert abs(angle(0.0, 0.995) - 0.5 * (0.995 - 0.015)) < 1e-6
    assert abs(angle(0.5, 1.1) - 0.5 * 0.6) < 1e-6  # the newest are under way
    assert abs(angle(0.5, 3.0) - 0.5 * (0.495 + 0.15)) < 1e-6  # it has fallen silent
    assert abs(angle(0.4, 0.43) - 0.5 * 0.03) < 1e-6  # within a gap


def test_what_is_unsure_of_itself_does_not_delay_the_lock():
    """Four of ten observations agree, six are far off: locked if those say that they are unsure;
    where all are as sure as each other, not."""
    for deviation, locked in ((0.3, True), (0.02, False)):
        estimator = ScaleEstimator(ScaleConfig(source="odometry"))
        for observed in (0.7, 0.8, 0.9, 1.1, 1.2, 1.3):
            estimator.observe(observed, deviation)
        for observed in (1.0, 1.01, 1.02, 1.0):
            estimator.observe(observed, 0.02)
        assert estimator.locked == locked


def test_many_unsure_observations_of_a_drifting_unit_are_enough(rng):
    """Each errs by 10 % and says so, while the map's unit grows by a third: locked once they tell
    the scale to 3 % together, not before. The same, saying that they err by 2 %: never."""
    for said, locked in ((0.1, True), (0.02, False)):
        estimator = ScaleEstimator(ScaleConfig(source="imu"))
        after = None
        for k in range(40):
            true = 2.0 * np.exp(0.3 * k / 40)
            if estimator.observe(true * np.exp(rng.normal(0, 0.1)), said):
                after = k + 1
                assert abs(estimator.scale / (2.0 * np.exp(0.15 * k / 40)) - 1) < 0.09  # 3 sigma
        assert (after is not None) == locked
        assert after is None or 14 < after < 25  # 1.25 x 10 % / sqrt(n) = 3 %: 17
        assert estimator.deviation < 0.03 or not locked


@pytest.mark.parametrize("said", [0.1, 0.06])
def test_the_scale_is_as_unsure_as_its_observations_are_far_apart(rng, said):
    """Observations that err by 10 %, and say so or are a little too sure of themselves."""
    estimator = ScaleEstimator(ScaleConfig(source="imu", window=1000))
    for _ in range(400):
        estimator.observe(2.0 * np.exp(rng.normal(0, 0.1)), said)
    expected = 1.25 * 0.1 / np.sqrt(400)  # of a median
    assert 0.8 < estimator.deviation / expected < 1.25


@pytest.mark.parametrize("orientation", ["imu", "camera_level"])
def test_an_imu_holds_the_map_level_while_images_tilt_it(walk, orientation):
    """Every overlap rolls the map by a degree and a half, and is no surer than to three; what the
    IMU feels is laid against what is up in the map at each keyframe."""
    mapper = mapper_for(walk, source="none")
    mapper.config = replace(mapper.config, orientation=orientation)
    rolls = Rotation.from_euler("z", 1.5, degrees=True).as_matrix()
    drifting = mapper.graph.add_edge

    def add_edge(edge):
        T = edge.T_target_source
        rolled = replace(edge, T_target_source=Sim3(T.R @ rolls, T.t, T.s))
        drifting(replace(rolled, information=np.diag([400.0] * 7)))

    mapper.graph.add_edge = add_edge
    up_cam = walk.T_world_cam[:, :3, :3].transpose(0, 2, 1) @ [0.0, -1.0, 0.0]  # y is down
    for frame, up in zip(walk.frames, up_cam, strict=True):
        for late in range(-2, 3):
            stamp = frame.stamp_ns + late * 20_000_000
            mapper.metric.sources.imu.add(stamp, np.zeros(3), 9.81 * up)
    run(mapper, walk.frames)
    ups = [T[:3, :3] @ up_cam[index] for index, T in mapper.keyframe_poses().items()]
    tilts = np.degrees(np.arccos(np.clip(np.array(ups)[:, 2], -1, 1)))
    assert len(mapper.submaps) >= 4
    if orientation == "imu":
        assert tilts.max() < 2.5
    else:
        assert tilts.max() > 4.0


def test_a_piece_after_a_break_is_metric_from_its_first_submap(walk):
    """The network's unit is another one in every chunk, and the first of a piece is its gauge."""
    mapper = mapper_for(walk, source="depth")
    frames = [
        replace(f, depth=d) for f, d in zip(walk.frames, walk.clip.depth.numpy(), strict=True)
    ]
    after = [replace(f, stamp_ns=f.stamp_ns + 10**10) for f in frames[36:]]
    run(mapper, frames[:36] + after)
    assert mapper.metric.metric and mapper.counters.components == 2
    np.testing.assert_allclose(metres_per_unit(mapper, walk), 1.0, rtol=0.03)
