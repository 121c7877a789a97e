"""With and without refinement, from the very same predictions."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from scal3r_ros.data.tum import write_trajectory
from scal3r_ros.evaluation.ablation import WAYS, ablate_refinement
from scal3r_ros.mapping.config import KeyframeConfig, MapperConfig
from test.conftest import TruthPredictor


class Rough(TruthPredictor):
    """Its cameras are turned by two degrees, each its own way."""

    asked = 0

    def predict(self, chunk, memory, *, write=True):
        self.asked += 1
        prediction, memory = super().predict(chunk, memory, write=write)
        rng = np.random.default_rng(chunk.index)
        T = prediction.T_submap_cam.copy()
        turns = rng.normal(0, 0.04, (len(T), 3))
        turns[chunk.reference] = 0
        T[:, :3, :3] = T[:, :3, :3] @ Rotation.from_rotvec(turns).as_matrix()
        return replace(prediction, T_submap_cam=T), memory


@pytest.fixture
def folder(tmp_path, walk) -> Path:
    (tmp_path / "images").mkdir()
    for frame in walk.frames:
        cv2.imwrite(str(tmp_path / "images" / f"{frame.index:06d}.png"), frame.image[..., ::-1])
    times = "".join(f"{f.stamp_ns * 1e-9:.9f}\n" for f in walk.frames)
    (tmp_path / "times.txt").write_text(times)
    K = walk.frames[0].K
    (tmp_path / "camera.yaml").write_text(
        f"width: 154\nheight: 112\nfx: {K[0, 0]}\nfy: {K[1, 1]}\n"
        f"cx: {K[0, 2] - 0.5}\ncy: {K[1, 2] - 0.5}\n"
    )
    truth = zip((f.stamp_ns for f in walk.frames), walk.T_world_cam, strict=True)
    write_trajectory(tmp_path / "groundtruth.txt", dict(truth))
    return tmp_path


def test_refinement_mends_rough_poses_and_the_network_is_asked_once(folder, walk):
    network = Rough(walk.clip)
    config = MapperConfig(keyframes=KeyframeConfig(min_flow=0.005))
    found = ablate_refinement(folder, network, config)
    assert list(found) == list(WAYS)
    assert len({row["keyframes"] for row in found.values()}) == 1
    assert network.asked < found["network alone"]["keyframes"] / 4  # once a chunk
    alone, default = found["network alone"], found["and depth from flow (default)"]
    assert alone["refinement ms a keyframe"] < default["refinement ms a keyframe"]
    assert default["rpe deg/s"] < 0.5 * alone["rpe deg/s"]
