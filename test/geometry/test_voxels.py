"""One point per voxel, and company."""

import numpy as np
from scipy.spatial import cKDTree

from scal3r_ros.geometry.voxels import crowd, strongest_per_voxel


def test_each_voxel_keeps_its_strongest_point(rng):
    xyz, strength = rng.uniform(-0.5, 0.5, (500, 3)), rng.uniform(0, 1, 500)
    kept = strongest_per_voxel(xyz, 0.25, strength)
    cells = [tuple(c) for c in np.floor(xyz / 0.25).astype(int)]
    slow = {max((s, i) for i, s in enumerate(strength) if cells[i] == cell)[1] for cell in cells}
    assert list(kept) == sorted(slow)


def test_crowd_counts_the_cube_of_cells_around(rng):
    xyz = rng.normal(0, 1, (500, 3))
    cells = np.floor(xyz / 0.5)
    slow = cKDTree(cells).query_ball_point(cells, 1.0, p=np.inf, return_length=True)
    np.testing.assert_array_equal(crowd(xyz, 0.5), slow)
