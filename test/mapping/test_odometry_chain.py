"""Odometry from the map's own poses: it never jumps, whatever the graph corrects."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from scal3r_ros.geometry.sim3 import Sim3, invert_pose
from scal3r_ros.mapping.odometry_chain import OdometryChain
from scal3r_ros.mapping.types import Submap

COUNT, OVERLAP = 8, 3


@pytest.fixture
def way(rng) -> np.ndarray:
    """T_map_cam along a curve."""
    T = np.tile(np.eye(4), (30, 1, 1))
    T[:, :3, :3] = Rotation.from_rotvec(np.outer(np.arange(30), [0, 0.05, 0])).as_matrix()
    T[:, :3, 3] = np.cumsum(rng.uniform(0.05, 0.2, (30, 3)), axis=0)
    return T


def submaps(way: np.ndarray, overlap: int) -> list[Submap]:
    found = []
    for index, first in enumerate(range(0, len(way) - COUNT + 1, COUNT - overlap)):
        rows = range(first, first + COUNT)
        T = invert_pose(way[first + 2]) @ way[list(rows)]
        maps = np.ones((COUNT, 4, 6), np.float16)
        found.append(
            Submap(
                index=index,
                frame_indices=tuple(rows),
                stamps_ns=tuple(100_000_000 * (row + 1) for row in rows),
                overlap=overlap if index else 0,
                depth=maps,
                confidence=maps,
                edge_certainty=maps,
                K=np.tile(np.eye(3), (COUNT, 1, 1)),
                T_submap_cam=T,
                descriptors=np.ones((COUNT, 2), np.float32),
                thumbnails=np.zeros((COUNT, 4, 6, 3), np.uint8),
                T_map_submap=Sim3.from_pose(way[first + 2]),
            )
        )
    return found


def corrected(submap: Submap) -> Submap:
    T = np.eye(4)
    T[:3, :3] = Rotation.from_rotvec([0, 0.2, 0]).as_matrix()
    T[:3, 3] = [3.0, -1.0, 0.5]
    return replace(submap, T_map_submap=Sim3.from_pose(T) @ submap.T_map_submap)


def test_odometry_is_the_way_itself_while_nothing_is_corrected(way):
    chain = OdometryChain()
    new = [pose for submap in submaps(way, OVERLAP) for pose in chain.extend(submap)]
    stamps = [stamp_ns for stamp_ns, _ in new]
    assert stamps == [100_000_000 * (k + 1) for k in range(len(new))]  # each image once
    np.testing.assert_allclose([T for _, T in new], way[: len(new)], atol=1e-9)
    np.testing.assert_allclose(chain.T_map_odom, np.eye(4), atol=1e-9)


def test_a_loop_moves_map_to_odom_and_never_odometry(way):
    first, second, third, *_ = submaps(way, OVERLAP)
    chain = OdometryChain()
    new = [*chain.extend(first), *chain.extend(second), *chain.extend(corrected(third))]
    np.testing.assert_allclose([T for _, T in new], way[: len(new)], atol=1e-9)
    there = corrected(third).T_map_submap.apply_pose(third.T_submap_cam[-1])
    np.testing.assert_allclose(chain.T_map_odom @ new[-1][1], there, atol=1e-9)
    assert np.linalg.norm(chain.T_map_odom[:3, 3]) > 1


def test_a_new_piece_of_the_map_goes_on_where_the_camera_stood(way):
    first, *_, last = submaps(way, 0)
    chain = OdometryChain()
    before, after = chain.extend(first), chain.extend(corrected(last))
    assert len(after) == COUNT
    np.testing.assert_allclose(after[0][1], before[-1][1], atol=1e-9)


def test_a_chunk_without_new_frames_adds_nothing(way):
    first, second, *_ = submaps(way, OVERLAP)
    chain = OdometryChain()
    chain.extend(first)
    again = chain.extend(second)
    assert chain.extend(second) == []
    assert len(again) == COUNT - OVERLAP
