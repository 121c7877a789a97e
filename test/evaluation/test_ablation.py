"""With and without refinement, from the very same predictions."""

from dataclasses import replace

import numpy as np
from scipy.spatial.transform import Rotation

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


def test_refinement_mends_rough_poses_and_the_network_is_asked_once(walk_folder, walk):
    network = Rough(walk.clip)
    config = MapperConfig(keyframes=KeyframeConfig(min_flow=0.005))
    found = ablate_refinement(walk_folder, network, config)
    assert list(found) == list(WAYS)
    assert len({row["keyframes"] for row in found.values()}) == 1
    assert network.asked < found["network alone"]["keyframes"] / 4  # once a chunk
    alone, default = found["network alone"], found["and depth from flow (default)"]
    assert alone["refinement ms a keyframe"] < default["refinement ms a keyframe"]
    assert default["rpe deg/s"] < 0.5 * alone["rpe deg/s"]
