"""Two submaps of the same walk: their Sim(3), and what it is worth when some frames failed."""

from dataclasses import replace

import gtsam
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from scal3r_ros.geometry.align import AlignmentError
from scal3r_ros.geometry.camera import intrinsics, transform_points, unproject
from scal3r_ros.geometry.sim3 import Sim3
from scal3r_ros.mapping.config import PoseGraphConfig, RegistrationConfig
from scal3r_ros.mapping.pose_graph import PoseGraph, to_gtsam
from scal3r_ros.mapping.registration import on_grid, points_of, register
from scal3r_ros.mapping.types import Edge, Submap

FRAMES, HEIGHT, WIDTH = 12, 30, 40
TRUTH = Sim3(Rotation.from_rotvec([0.2, -0.5, 0.1]).as_matrix(), np.array([3.0, -1.0, 2.0]), 1.8)


def submap(index: int, first: int, T_submap_world: Sim3, rng: np.random.Generator) -> Submap:
    """A bumpy wall seen from a walk along it; frames are named by their place in the walk."""
    walk = np.tile(np.eye(4), (FRAMES, 1, 1))
    steps = np.arange(first, first + FRAMES)
    walk[:, 0, 3], walk[:, 1, 3] = 0.2 * steps, 0.1 * np.sin(steps)
    walk[:, :3, :3] = Rotation.from_rotvec(0.03 * steps[:, None] * [0, 1, 0]).as_matrix()
    K = intrinsics(40.0, 40.0, WIDTH / 2, HEIGHT / 2)
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    depth = 3 + 0.5 * np.sin(u / 3 + steps[:, None, None]) + 0.3 * np.cos(v / 4)
    T = np.stack([_pose(T_submap_world, pose) for pose in walk])
    depth = depth * T_submap_world.s * np.exp(rng.normal(0, 0.01, depth.shape))
    ones = np.ones(depth.shape, np.float16)
    return Submap(
        index=index,
        frame_indices=tuple(int(k) for k in steps),
        stamps_ns=tuple(int(k) * 10**8 for k in steps),
        overlap=8 if index else 0,
        depth=depth.astype(np.float16),
        confidence=ones,
        edge_certainty=ones,
        K=np.tile(K, (FRAMES, 1, 1)),
        T_submap_cam=T,
        descriptors=np.zeros((FRAMES, 4), np.float32),
        thumbnails=np.zeros((*depth.shape, 3), np.uint8),
    )


def _pose(sim3: Sim3, pose: np.ndarray) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = sim3.R @ pose[:3, :3], sim3.apply(pose[None, :3, 3])[0]
    return T


@pytest.fixture
def pair(rng) -> tuple[Submap, Submap]:
    return submap(1, 4, Sim3.identity(), rng), submap(0, 0, TRUTH, rng)


def test_clean_submaps_are_joined(pair):
    edge = register(*pair, RegistrationConfig())
    error = (TRUTH.inverse() @ edge.T_target_source).log()
    assert np.abs(error).max() < 0.01
    assert np.sqrt(1 / edge.information[6, 6]) < 0.05


def test_shared_cameras_that_agree_better_than_points_decide(pair):
    edge = register(*pair, RegistrationConfig())
    np.testing.assert_allclose(edge.T_target_source.R, TRUTH.R, atol=1e-9)  # points: 1e-4


def test_submaps_of_other_image_sizes_are_joined(pair):
    """One holds every second pixel of its images, exactly; the other is brought to that size."""
    source, target = pair
    maps = ("depth", "confidence", "edge_certainty", "thumbnails")
    half = {name: getattr(source, name)[:, 1::2, 1::2] for name in maps}
    K = source.K.copy()
    K[:, :2] /= 2
    K[:, :2, 2] -= 0.25  # pixel 1 is at 1.5, now at 0.5
    _, expected, _ = points_of(target, [0])
    _, seen, _ = points_of(on_grid(target, (HEIGHT // 2, WIDTH // 2)), [0])
    every_second = expected.reshape(HEIGHT, WIDTH, 3)[1::2, 1::2]
    np.testing.assert_allclose(seen.reshape(every_second.shape), every_second, atol=1e-9)
    edge = register(replace(source, **half, K=K), target, RegistrationConfig())
    error = (TRUTH.inverse() @ edge.T_target_source).log()
    assert np.abs(error).max() < 0.01
    assert edge.residual < 1.1 * register(*pair, RegistrationConfig()).residual


def test_a_frame_whose_depth_failed_does_not_decide(pair):
    source, target = pair
    target.depth[5] *= np.float16(0.25)  # nearer points weigh more
    edge = register(source, target, RegistrationConfig())
    assert abs(np.log(edge.T_target_source.s / TRUTH.s)) < 0.02


def test_paths_with_one_leap_are_not_trusted(pair):
    """One camera stands far off in both paths: depth decides, and the doubt is admitted."""
    source, target = pair
    certain = register(source, target, RegistrationConfig()).information[6, 6]
    source.T_submap_cam[0, :3, 3] += [4.0, 0, 0]
    target.T_submap_cam[4, :3, 3] += [20.0, 0, 0]
    edge = register(source, target, RegistrationConfig())
    assert abs(np.log(edge.T_target_source.s / TRUTH.s)) < 0.02
    assert edge.information[6, 6] < 0.5 * certain


def test_strangers_are_refused(rng):
    with pytest.raises(AlignmentError, match="share no frame"):
        register(
            submap(1, 40, Sim3.identity(), rng), submap(0, 0, TRUTH, rng), RegistrationConfig()
        )


def test_submaps_without_depth_are_refused(pair):
    source, target = pair
    source.depth[:] = 0
    with pytest.raises(AlignmentError, match="200 shared points are needed, got 0"):
        register(source, target, RegistrationConfig())


def test_every_third_pixel_is_where_it_was_among_all(pair):
    """Half a pixel would not show in a fit: both submaps would be off alike."""
    submap = pair[0]
    _, coarse, _ = points_of(submap, [0, 2], 3)
    for row, slot in enumerate((0, 2)):
        xyz = unproject(submap.depth[slot].astype(np.float64), submap.K[slot])[::3, ::3]
        xyz = transform_points(submap.T_submap_cam[slot], xyz.reshape(-1, 3))
        np.testing.assert_allclose(coarse[row], xyz, atol=1e-9)


def in_graph(edge: Edge) -> np.ndarray:
    """Covariance of the source as the edge alone ties it to a fixed target."""
    graph = PoseGraph(PoseGraphConfig())
    graph.add_submap(0, Sim3.identity(), fixed=True)
    graph.add_submap(1, edge.T_target_source)
    graph.add_edge(edge)
    graph.optimise()
    return graph.covariance(1)


def test_poses_that_were_carried_over_are_as_sure_as_they_were(pair):
    """They agree with those before, right or wrong: the edge inherits the target's deviations, as
    far as GTSAM's error changes where the target's newest camera turns and shifts."""
    (source, target), config = pair, RegistrationConfig()
    doubt = np.array([0.1, 0.2, 0.3, 1.0, 2.0, 3.0, 0.5])
    source = replace(source, carried=True)
    targets = target, replace(target, far_end=doubt)
    alone, inherits = (register(source, before, config) for before in targets)
    T = alone.T_target_source
    R_target_cam = target.T_submap_cam[-1, :3, :3]
    noise = gtsam.noiseModel.Unit.Create(7)
    factor = gtsam.BetweenFactorSimilarity3(0, 1, to_gtsam(T), noise)

    def error(moved: np.ndarray) -> np.ndarray:
        turn = R_target_cam @ Rotation.from_rotvec(moved[:3]).as_matrix() @ R_target_cam.T
        values = gtsam.Values()
        values.insert(0, to_gtsam(Sim3.identity()))
        values.insert(1, to_gtsam(Sim3(turn @ T.R, T.t + moved[3:6], T.s * np.exp(moved[6]))))
        return factor.unwhitenedError(values)

    J = np.stack([(error(h) - error(-h)) / 2e-5 for h in 1e-5 * np.eye(7)], axis=1)
    expected = in_graph(alone) + J @ np.diag(doubt**2) @ J.T
    np.testing.assert_allclose(in_graph(inherits), expected, rtol=1e-3, atol=1e-5)


def test_what_is_inherited_does_not_raise_the_floor_of_the_rest(pair):
    """Submaps that agree in every digit: the least that is believed, and what is inherited."""
    target, config, least = pair[1], RegistrationConfig(), []
    for way in (0.0, 3.0):
        before = replace(target, far_end=np.array([0, 0, 0, way, way, way, 0]))
        edge = register(replace(target, index=1, carried=True), before, config)
        found = np.sqrt(np.diag(in_graph(edge)))
        np.testing.assert_allclose(found[:3], config.rotation_floor, rtol=0.01)
        least.append(found[3])
        np.testing.assert_allclose(found[3:6], np.hypot(least[0], way), rtol=0.01)
    points = unproject(target.depth.astype(np.float64), target.K)
    assert least[0] < config.translation_floor * np.linalg.norm(points, axis=-1).max()


def test_a_unit_that_was_carried_over_hardly_walks(pair):
    """The prior pulls the scale towards one, a little where depth and path are sure of another, and
    the edge is less sure where they contradict it."""
    (source, target), config = pair, RegistrationConfig()
    free, held = (register(replace(source, carried=c), target, config) for c in (False, True))
    logs = [np.log(edge.T_target_source.s) for edge in (free, held)]
    assert abs(logs[0]) > 0.3 and 0.9 * abs(logs[0]) < abs(logs[1]) < abs(logs[0])
    assert held.information[6, 6] < 0.5 * free.information[6, 6]
    near = replace(source, depth=source.depth * np.float16(free.T_target_source.s))
    T = near.T_submap_cam.copy()
    T[:, :3, 3] *= free.T_target_source.s
    near = replace(near, T_submap_cam=T)
    free, held = (register(replace(near, carried=c), target, config) for c in (False, True))
    assert abs(np.log(held.T_target_source.s)) <= abs(np.log(free.T_target_source.s)) + 1e-9
    assert held.information[6, 6] > free.information[6, 6]
