"""Settings, scale, keyframe gate, files."""

from dataclasses import replace

import numpy as np
import open3d
import pytest

from scal3r_ros.mapping.config import (
    ConfigError,
    KeyframeConfig,
    MapperConfig,
    ScaleConfig,
    load_config,
    profile,
    updated,
)
from scal3r_ros.mapping.continuity import Continuity
from scal3r_ros.mapping.kept_keyframes import KeptKeyframes
from scal3r_ros.mapping.keyframes import KeyframeGate
from scal3r_ros.mapping.map_file import write_pcd, write_ply
from scal3r_ros.mapping.occupancy import height_field
from scal3r_ros.mapping.point_map import Cloud
from scal3r_ros.mapping.scale import ScaleEstimator
from scal3r_ros.mapping.shelf import Shelf
from scal3r_ros.mapping.trajectory import PoseLog
from scal3r_ros.mapping.types import Frame


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"chunk": {}}, "unknown setting chunk"),
        ({"chunks": {"size": "16"}}, "chunks.size must be int"),
        ({"chunks": {"size": 4}}, "overlap must be in (0, 4)"),
        ({"loops": 3}, "loops must be a mapping"),
        ({"scale": {"source": "guess"}}, "scale source must be one of"),
    ],
)
def test_wrong_settings_are_refused_with_what_was_expected(settings, said):
    with pytest.raises(ConfigError) as caught:
        updated(MapperConfig(), settings, "")
    assert said in str(caught.value)


def test_settings_come_from_yaml_over_the_profile(tmp_path):
    (tmp_path / "c.yaml").write_text("chunks: {overlap: 4}\nloops: {enabled: false}\n")
    config = load_config(tmp_path / "c.yaml", profile("nano"))
    assert (config.chunks.size, config.chunks.overlap, config.loops.enabled) == (16, 4, False)


def test_scale_locks_on_agreeing_observations_despite_outliers(rng):
    estimator = ScaleEstimator(ScaleConfig(source="odometry", lock_after=8))
    for i in range(12):
        estimator.observe(2.5 * np.exp(rng.normal(0, 0.01)) if i % 5 else 40.0)
    assert estimator.metric
    assert abs(estimator.scale - 2.5) < 0.05


def test_a_fixed_scale_is_metric_at_once():
    estimator = ScaleEstimator(ScaleConfig(source="fixed", fixed=3.0))
    assert (estimator.metric, estimator.scale) == (True, 3.0)


def test_standstill_gives_no_keyframes_and_motion_does(walk):
    gate = KeyframeGate(KeyframeConfig())
    still = [replace(walk.frames[0], index=i, stamp_ns=i * 10**9) for i in range(20)]
    assert sum(gate.accept(f) for f in still) == 1
    gate.reset()
    assert sum(gate.accept(f) for f in walk.frames) > 5


def test_a_dark_camera_gives_no_keyframes_and_no_error():
    gate = KeyframeGate(KeyframeConfig())
    black = np.zeros((60, 80, 3), np.uint8)
    assert [gate.accept(Frame(i, i * 10**9, black)) for i in range(5)] == [True] + 4 * [False]


@pytest.mark.parametrize(("suffix", "write"), [("ply", write_ply), ("pcd", write_pcd)])
def test_open3d_reads_what_is_written(tmp_path, rng, suffix, write):
    xyz = rng.normal(0, 2, (500, 3)).astype(np.float32)
    rgb = rng.integers(0, 256, (500, 3), dtype=np.uint8)
    write(tmp_path / f"m.{suffix}", Cloud(xyz, rgb, np.ones(500, np.float32)))
    read = open3d.io.read_point_cloud(str(tmp_path / f"m.{suffix}"))
    np.testing.assert_allclose(np.asarray(read.points), xyz, atol=1e-6)
    np.testing.assert_allclose(np.asarray(read.colors) * 255, rgb, atol=0.51)
    assert [p.name for p in tmp_path.iterdir()] == [f"m.{suffix}"]  # nothing half-written


def test_shared_keyframes_hand_over_gradually():
    from scal3r_ros.mapping.trajectory import blended, middle_weight

    a, b = np.eye(4), np.eye(4)
    b[0, 3] = 4.0
    assert middle_weight(0, 16) < middle_weight(4, 16) < middle_weight(8, 16)
    poses = blended({1: [(1.0, a), (3.0, b)], 0: [(0.25, a)]})
    assert list(poses) == [0, 1]
    assert poses[1][0, 3] == pytest.approx(3.0)  # the weighted mean


def test_heights_by_hand():
    """A step half a metre high, a point that flies over it, nothing seen beyond."""
    x, y = (
        part.ravel() for part in np.meshgrid(np.arange(0.05, 4, 0.02), np.arange(0.05, 2, 0.02))
    )
    floor = np.stack([x, y, np.where(x > 2, 0.5, 0.0)], 1)
    floor = floor[(x < 3) | (y < 1)]  # a corner is missing
    field = height_field(np.concatenate([floor, [[1.0, 1.0, 3.0]]]), resolution=0.2)

    def height(x: float, y: float) -> float:
        column, row = ((np.array([x, y]) - field.origin) / field.resolution).astype(int)
        return float(field.heights[row, column])

    assert height(1.0, 1.0) == 0.0
    assert height(2.5, 1.5) == 0.5
    assert np.isnan(height(3.5, 1.6))
    with pytest.raises(ValueError, match="needs points"):
        height_field(np.zeros((0, 3)), resolution=0.2)


def test_a_log_of_poses_gives_back_what_it_was_given(rng):
    log, poses = PoseLog(), {}
    for index in (3, 4, 9):
        T = np.eye(4)
        T[:3] = rng.normal(size=(3, 4))
        log.append(index, T)
        poses[index] = T
    assert list(log) == [3, 4, 9] and len(log) == 3
    for index, T in poses.items():
        np.testing.assert_array_equal(log[index], T)
    assert 5 not in log and 10 not in log
    with pytest.raises(ValueError, match="above 9, got 9"):
        log.append(9, np.eye(4))


def test_kept_keyframes_lie_on_disk_and_the_newest_can_be_dropped(tmp_path):
    shelf = Shelf(str(tmp_path))
    kept, K = KeptKeyframes(shelf), np.diag([100.0, 100.0, 1.0])
    for k in range(5):
        image = np.full((48, 64, 3), 40 * k, np.uint8)
        its_K = None if k == 2 else K * (1 + (k > 2))
        kept.append(Frame(10 + k, 10**9 + k, image, its_K), k // 2)
    assert len(kept) == 5 and kept.submaps == [0, 0, 1, 1, 2]
    assert [k.frame.index for k in kept] == [10, 11, 12, 13, 14]
    assert kept[-1].frame.stamp_ns == 10**9 + 4 and kept[2].frame.K is None
    np.testing.assert_array_equal(kept[1].frame.K, K)
    np.testing.assert_array_equal(kept[3].frame.K, 2 * K)
    assert abs(int(kept[3].restore().image.mean()) - 120) <= 1
    files = len(list(shelf.path.iterdir()))
    kept.forget_from(3)
    assert len(kept) == 3 and kept.submaps == [0, 0, 1]
    assert len(list(shelf.path.iterdir())) == files - 2
    with pytest.raises(IndexError):
        kept[3]


@pytest.mark.parametrize(("usual_s", "pause_s", "breaks"), [(0.1, 2.5, True), (1.0, 4.0, False)])
def test_a_pause_is_long_by_what_is_usual(usual_s, pause_s, breaks):
    continuity, image = Continuity(KeyframeConfig(max_gap_s=2.0)), np.zeros((2, 2, 3), np.uint8)
    seconds = np.append(usual_s * np.arange(10), 9 * usual_s + pause_s)
    said = [continuity.broken(Frame(i, int(s * 1e9), image)) for i, s in enumerate(seconds)]
    assert [bool(text) for text in said] == [False] * 10 + [breaks]
