"""The planners' grid against a sensor's."""

import cv2
import pytest

from scal3r_ros.data.sequence import SequenceError
from scal3r_ros.evaluation.grid import evaluate_grid
from scal3r_ros.mapping.config import KeyframeConfig, MapperConfig, RefinementConfig
from test.conftest import TruthPredictor

CONFIG = MapperConfig(
    keyframes=KeyframeConfig(min_flow=0.02), refinement=RefinementConfig(enabled=False)
)


def test_a_map_that_is_right_has_the_sensors_grid(walk, walk_folder, tmp_path):
    network = TruthPredictor(walk.clip, scales=(0.6,))
    found = evaluate_grid(walk_folder, network, CONFIG, tmp_path / "grid.png")
    assert found["cells that both know"] > 300
    assert found["free, right"] > 0.9 and found["free, found"] > 0.9
    assert found["occupied, right"] > 0.8 and found["occupied, found"] > 0.8
    picture = cv2.imread(str(tmp_path / "grid.png"))
    assert picture.shape[1] > picture.shape[0] / 4


def test_without_a_sensor_it_says_what_is_needed(walk, walk_folder, tmp_path):
    folder = tmp_path / "walk"
    folder.mkdir()
    for name in ("images", "times.txt", "camera.yaml", "groundtruth.txt"):
        (folder / name).symlink_to(walk_folder / name)
    with pytest.raises(SequenceError, match="needs depth/"):
        evaluate_grid(folder, TruthPredictor(walk.clip), CONFIG)
