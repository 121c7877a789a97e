"""One point per voxel, and company."""

import numpy as np
from scipy.spatial import cKDTree

from scal3r_ros.geometry.voxels import crowd, strongest_per_voxel


def test_the_strongest_of_each_voxel_remains():
    xyz = np.array([[0.1, 0.1, 0.1], [0.2, 0.2, 0.2], [1.1, 0, 0], [-0.1, 0, 0]])
    kept = strongest_per_voxel(xyz, 1.0, np.array([1.0, 2.0, 1.0, 1.0]))
    assert list(kept) == [1, 2, 3]


def test_crowd_counts_the_cube_of_cells_around(rng):
    xyz = rng.normal(0, 1, (500, 3))
    cells = np.floor(xyz / 0.5)
    slow = cKDTree(cells).query_ball_point(cells, 1.0, p=np.inf, return_length=True)
    np.testing.assert_array_equal(crowd(xyz, 0.5), slow)
