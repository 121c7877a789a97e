"""Pinhole geometry against OpenCV and by its laws."""

import cv2
import numpy as np
import pytest

from scal3r_ros.data.sequence import Undistorter
from scal3r_ros.geometry.camera import (
    Camera,
    intrinsics,
    project,
    scale_intrinsics,
    unproject,
    unproject_pixels,
)


def test_projection_is_opencvs_half_a_pixel_further(rng):
    """OpenCV's pixel centres are integers, ours half-integers."""
    K_cv = intrinsics(300.0, 310.0, 159.5, 119.5)
    xyz = rng.uniform([-1, -1, 1], [1, 1, 5], (20, 3))
    expected, _ = cv2.projectPoints(xyz, np.zeros(3), np.zeros(3), K_cv, None)
    K = intrinsics(300.0, 310.0, 160.0, 120.0)
    np.testing.assert_allclose(project(xyz, K), expected[:, 0] + 0.5, atol=1e-9)


def test_resizing_an_image_moves_its_points_with_it(rng):
    """Against cv2.resize: a bright pixel block lands where the scaled K projects it."""
    K = intrinsics(100.0, 100.0, 32.0, 24.0)
    xyz = np.array([[0.05, -0.03, 1.0]])
    u, v = project(xyz, K)[0]
    image = np.zeros((48, 64), np.float32)
    image[int(v), int(u)] = 1.0
    big = cv2.resize(image, (256, 192), interpolation=cv2.INTER_NEAREST)
    rows, columns = np.nonzero(big)
    u_big, v_big = project(xyz, scale_intrinsics(K, (48, 64), (192, 256)))[0]
    assert columns.min() <= u_big <= columns.max() + 1
    assert rows.min() <= v_big <= rows.max() + 1


def test_unprojecting_and_projecting_gives_the_pixel_back(rng):
    K = intrinsics(80.0, 90.0, 20.3, 14.8)
    depth = rng.uniform(1, 4, (30, 40))
    uv = project(unproject(depth, K), K)
    np.testing.assert_allclose(uv[12, 7], [7.5, 12.5], atol=1e-9)
    chosen = unproject_pixels(np.array([[7.5, 12.5]]), depth[12:13, 7], K)
    np.testing.assert_allclose(chosen[0], unproject(depth, K)[12, 7], atol=1e-12)


def test_points_behind_the_camera_have_no_pixel():
    assert np.isnan(project(np.array([[0.0, 0, -1]]), intrinsics(1.0, 1.0, 0.0, 0.0))).all()


@pytest.mark.parametrize(
    ("fisheye", "given", "length"), [(False, 3, 4), (False, 6, 8), (False, 13, 14), (True, 2, 4)]
)
def test_distortion_that_lacks_its_end_has_zeros_there(fisheye, given, length):
    K = intrinsics(50.0, 50.0, 32.0, 24.0)
    camera = Camera(64, 48, K, np.full(given, 1e-3), fisheye)
    assert camera.distortion.tolist() == [1e-3] * given + [0.0] * (length - given)
    Undistorter(camera)  # OpenCV takes it


@pytest.mark.parametrize(
    ("fisheye", "wrong"), [(False, np.zeros(15)), (True, np.zeros(5)), (False, np.full(4, np.nan))]
)
def test_distortion_that_is_none_is_refused(fisheye, wrong):
    with pytest.raises(ValueError, match=r"finite numbers of distortion are expected, got \["):
        Camera(64, 48, intrinsics(50.0, 50.0, 32.0, 24.0), wrong, fisheye)
