"""Nav2 is given what it can use: its observation buffer's own rule finds the obstacles in `points`.

Nav2 cannot be installed here, so its rule is written down: the origin of an observation is where
the frame of the cloud (or `sensor_frame`) is at its stamp; points farther from it than
`obstacle_max_range`, or outside the heights, mark nothing. An observation whose stamp is older
than a positive `observation_persistence` is gone before it is used; with 0 the newest is kept.
"""

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy", reason="ROS 2 is not installed")
pytest.importorskip("scal3r_ros.msg", reason="the messages are not built: make setup")

from scal3r_ros.evaluation.grid import mapped
from scal3r_ros.geometry.sim3 import Sim3
from scal3r_ros.mapping.config import KeyframeConfig, MapperConfig, RefinementConfig
from scal3r_ros.mapping.mapper import Mapper
from scal3r_ros.mapping.occupancy import occupancy_grid
from scal3r_ros.mapping.point_map import Cloud
from scal3r_ros.ros.chunk_map import ChunkMap
from scal3r_ros.ros.conversions import message_to_cloud
from scal3r_ros.ros.frames import RobotFrame
from scal3r_ros.ros.map_publisher import MapPublisher
from scal3r_ros.ros.offline_node import OfflineNode
from scal3r_ros.ros.parameters import MAPPING
from test.conftest import ROOT, TruthPredictor

pytestmark = pytest.mark.ros


LATE_S = 10.0  # between an image and its cloud: a chunk long, and its time in the network


def marked(
    cloud: Cloud, T_global_sensor: np.ndarray, source: dict, age_s: float = LATE_S
) -> np.ndarray:
    """Points in the global frame that an obstacle layer marks."""
    if 0 < source["observation_persistence"] < age_s:
        return np.empty((0, 3))
    xyz = cloud.xyz @ T_global_sensor[:3, :3].T + T_global_sensor[:3, 3]
    far = np.linalg.norm(xyz - T_global_sensor[:3, 3], axis=1)
    keep = (far >= source["obstacle_min_range"]) & (far <= source["obstacle_max_range"])
    keep &= (xyz[:, 2] >= source["min_obstacle_height"]) & (
        xyz[:, 2] <= source["max_obstacle_height"]
    )
    return xyz[keep]


def test_the_observation_buffers_rule_finds_the_walls(walk, tmp_path):
    config = MapperConfig(
        keyframes=KeyframeConfig(min_flow=0.005), refinement=RefinementConfig(enabled=False)
    )
    mapper = Mapper(TruthPredictor(walk.clip, scales=(1.0,)), config)
    node = OfflineNode(MAPPING, {}, tmp_path / "bag")
    heard = []
    node.write = lambda topic, kind, message: heard.append((topic, message))
    maps = MapPublisher(node, mapper, RobotFrame(node, ""))
    maps.frame_id = "camera_optical_frame"
    for frame in walk.frames:
        for update in mapper.add_frame(frame):
            maps.publish(update)
    points = [m for topic, m in heard if topic == "/points"]
    assert points and {m.header.frame_id for m in points} == {"camera_optical_frame"}

    settings = yaml.safe_load((ROOT / "config" / "nav2_scal3r.yaml").read_text())
    layer = settings["local_costmap"]["local_costmap"]["ros__parameters"]["voxel_layer"]
    source = dict(layer["scal3r"])
    assert source["topic"].endswith("/points") and source["sensor_frame"] == ""
    submap = mapper.submaps[-1]
    T_map_cam = submap.T_map_submap.apply_pose(submap.T_submap_cam[-1])
    ground = float(np.quantile(mapper.point_map.cloud().xyz[:, 2], 0.02))
    T_global_cam = T_map_cam.copy()
    T_global_cam[2, 3] -= ground  # heights above the floor, as on a robot
    cloud = message_to_cloud(points[-1])
    found = marked(cloud, T_global_cam, source)
    assert len(found) > 200
    kept = source | {"observation_persistence": 2.0}  # s
    assert len(marked(cloud, T_global_cam, kept)) == 0
    assert len(marked(cloud, T_global_cam, kept, age_s=1.0)) == len(found)
    # and where it says so there are walls: the map's own points, within a voxel or two
    walls = mapper.point_map.cloud().xyz - [0, 0, ground]
    from scipy.spatial import cKDTree

    away, _ = cKDTree(walls).query(found)
    assert np.quantile(away, 0.95) < 0.15
    # the same cloud in `map` would be measured from the map's origin
    placed = Cloud(
        found.astype(np.float32), cloud.rgb[: len(found)], cloud.confidence[: len(found)]
    )
    moved = Sim3(np.eye(3), np.array([20.0, 0, 0])).apply(placed.xyz.astype(float))
    far = Cloud(moved.astype(np.float32), placed.rgb, placed.confidence)
    assert len(marked(far, np.eye(4), source)) == 0


def test_map_node_has_of_messages_what_the_mapper_has(walk, tmp_path):
    """Every chunk's points, and the keyframes that see them: rays of the grid begin there."""
    config = MapperConfig(
        keyframes=KeyframeConfig(min_flow=0.02), refinement=RefinementConfig(enabled=False)
    )
    mapper = Mapper(TruthPredictor(walk.clip, scales=(1.0, 2.0)), config)
    node = OfflineNode(MAPPING, {}, tmp_path / "bag")
    rebuilt = ChunkMap()
    hear = {"/chunk": rebuilt.add_chunk, "/corrections": rebuilt.correct}
    node.write = lambda topic, kind, message: hear.get(topic, lambda _: None)(message)
    maps = MapPublisher(node, mapper, RobotFrame(node, ""))
    maps.frame_id = "camera_optical_frame"
    for frame in walk.frames:
        for update in mapper.add_frame(frame):
            maps.publish(update)
    own, heard = mapped(mapper), rebuilt.seen()
    assert len(own) == len(heard) >= 2
    assert len(own[1].T_map_cam) < len(mapper.submaps[1].T_submap_cam)  # shared ones are left out
    for a, b in zip(own, heard, strict=True):
        np.testing.assert_allclose(b.T_map_cam, a.T_map_cam, atol=1e-5)
        np.testing.assert_allclose(b.xyz, a.xyz, atol=1e-3)


def test_the_static_layers_grid_has_walls_and_free_space(walk):
    config = MapperConfig(
        keyframes=KeyframeConfig(min_flow=0.005), refinement=RefinementConfig(enabled=False)
    )
    mapper = Mapper(TruthPredictor(walk.clip, scales=(1.0,)), config)
    for frame in walk.frames:
        mapper.add_frame(frame)
    cameras = np.array([T[:3, 3] for T in mapper.keyframe_poses().values()])
    grid = occupancy_grid(
        mapped(mapper),
        resolution=0.1,
        height_range=(0.1, 2.0),
        min_hits=2,
    )
    assert set(np.unique(grid.cells)) == {-1, 0, 100}
    at = ((cameras[:, :2] - grid.origin) / grid.resolution).astype(int)
    inside = ((at >= 0) & (at < grid.cells.shape[::-1])).all(axis=1)
    assert (grid.cells[at[inside, 1], at[inside, 0]] != 100).mean() > 0.9  # it drove there
