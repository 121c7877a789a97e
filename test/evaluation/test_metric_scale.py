"""Every source of metres on a rendered stereo sequence that was written to disk and read back."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from scal3r_ros.data.encodings import BitDepth
from scal3r_ros.data.folder import read_image
from scal3r_ros.data.sequence import SequenceError, open_sequence
from scal3r_ros.data.sequence_folder import files_beside, read_baseline, read_depth
from scal3r_ros.data.tum import read_trajectory
from scal3r_ros.evaluation.metric_scale import evaluate_scale, inertial_samples, wheel_odometry
from scal3r_ros.evaluation.trajectory import evaluate
from scal3r_ros.mapping.config import (
    KeyframeConfig,
    LoopConfig,
    MapperConfig,
    RefinementConfig,
    ScaleConfig,
)
from scal3r_ros.mapping.inertial import InertialLog
from scal3r_ros.mapping.measured_depth import stereo_depth
from scal3r_ros.offline import OfflineRun, run
from scal3r_ros.training.rendered_sequence import render_rounds
from test.conftest import TruthPredictor

IMAGES, BASELINE = 44, 0.12


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rounds")
    render_rounds(folder, 500_005, IMAGES, BASELINE)
    return folder


def test_what_was_written_is_what_is_read(pairs):
    frames = list(open_sequence(pairs))
    assert len(frames) == IMAGES
    assert read_baseline(pairs) == BASELINE
    depths, rights, ratios = files_beside(pairs, "depth"), files_beside(pairs, "right"), []
    for frame in frames[::4]:
        depth = read_depth(depths[frame.index])
        right = read_image(rights[frame.index], BitDepth())
        found = stereo_depth(replace(frame, right=right, baseline=BASELINE))
        both = (found > 0) & (depth > 0)
        assert both.mean() > 0.2
        ratios.append(np.median(found[both] / depth[both]))
    assert abs(np.median(ratios) - 1) < 0.02  # of 6 pixels of disparity, a tenth is noise
    with pytest.raises(SequenceError, match="right/000099.png cannot be read"):
        read_image(pairs / "right" / "000099.png", BitDepth())


def test_every_source_makes_the_map_metric(pairs):
    frames, depths = list(open_sequence(pairs)), files_beside(pairs, "depth")
    clip = SimpleNamespace(
        depth=torch.tensor(np.stack([read_depth(depths[f.index]) for f in frames])),
        K=torch.tensor(np.stack([f.K for f in frames])),
        T_world_cam=torch.tensor(
            np.stack(list(read_trajectory(pairs / "groundtruth.txt").values()))
        ),
    )
    config = MapperConfig(
        keyframes=KeyframeConfig(min_flow=0.005),
        refinement=RefinementConfig(enabled=False),
        loops=LoopConfig(enabled=False),
        scale=ScaleConfig(lock_after=3, min_baseline=0.2),
    )
    found = evaluate_scale(pairs, TruthPredictor(clip, scales=(3.0, 2.0, 4.0, 2.5)), config)
    assert set(found) == {"odometry", "imu", "depth", "stereo"}
    for source in ("odometry", "depth", "stereo"):
        assert found[source]["metric after images"] <= IMAGES
        assert abs(found[source]["metre off at the end, %"]) < 3
        assert found[source]["ate m, se3"] < 0.05


@pytest.mark.parametrize("sensor", ["depth", "stereo"])
def test_a_folder_with_a_second_sensor_is_mapped_in_metres(pairs, tmp_path, sensor):
    """By the nano network and `scal3r map`; nothing is aligned but the first place. One that lacks
    what it needs is refused by name."""
    settings = tmp_path / "settings.yaml"
    settings.write_text("scale: {lock_after: 2}\nkeyframes: {min_flow: 0.01}\n")
    out = tmp_path / "out"
    options = OfflineRun(pairs, out, config=settings, scale_source=sensor, device="cpu")
    report = run(options)
    assert report["scale"]["metric"] and report["scale"]["source"] == sensor
    truth = read_trajectory(pairs / "groundtruth.txt")
    errors = evaluate(truth, read_trajectory(out / "keyframes.txt"), "se3")
    assert errors.ate_rmse < 0.03 * errors.path_length
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("images", "times.txt", "camera.yaml"):
        (bare / name).symlink_to(pairs / name)
    with pytest.raises(SequenceError, match="which is no folder"):
        run(replace(options, source=bare, out=tmp_path / "none"))
    (bare / "camera.yaml").unlink()
    (bare / "depth").mkdir()
    (bare / "right").mkdir()
    with pytest.raises(SequenceError, match="needs .*camera.yaml"):
        run(replace(options, source=bare, out=tmp_path / "none"))


def test_made_up_sensors_feel_the_true_way(pairs, rng):
    """Within the errors that they are given, no more and no less."""
    truth = read_trajectory(pairs / "groundtruth.txt")
    stamps = sorted(truth)
    odometry = wheel_odometry(truth, rng)
    steps = [
        np.linalg.norm(np.diff([T[stamp][:3, 3] for stamp in stamps], axis=0), axis=1)
        for T in (truth, odometry)
    ]
    ratio = steps[1] / steps[0]
    assert 0.01 < ratio.std() < 0.03
    log = InertialLog()
    for sample in inertial_samples(truth, rng):
        log.add(*sample)
    a, b = stamps[3], stamps[23]
    turned = truth[a][:3, :3].T @ truth[b][:3, :3]
    error = log.turn(a, b).T @ turned
    assert 1e-4 < np.arccos(np.clip((np.trace(error) - 1) / 2, -1, 1)) < 0.02
