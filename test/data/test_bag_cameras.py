"""Which CameraInfo is that of an image topic, and what it says of these images."""

from types import SimpleNamespace

import numpy as np
import pytest

from scal3r_ros.data.calibration import camera_of_info, is_rectified
from scal3r_ros.data.rosbag import COMPRESSED, INFO, RAW, info_topic
from scal3r_ros.geometry.camera import project


@pytest.mark.parametrize(
    ("image", "others", "infos", "expected"),
    [
        ("/cam/image_raw", [], ["/cam/camera_info"], "/cam/camera_info"),
        ("/cam/image_raw", [], ["/cam/a_info", "/cam/camera_info"], "/cam/camera_info"),
        ("/cam/image_raw/compressed", [], ["/cam/info"], "/cam/info"),
        ("/image", [], ["/cam/camera_info"], "/cam/camera_info"),  # one camera, one calibration
        ("/image", ["/image/compressed"], ["/cam/camera_info"], "/cam/camera_info"),
        ("/left/image", ["/right/image"], ["/right/camera_info"], "/left/camera_info"),  # not there
        ("/image", [], ["/a/camera_info", "/b/camera_info"], "/camera_info"),  # whose is it?
        ("/cam/image_raw", [], [], "/cam/camera_info"),
    ],
)
def test_no_camera_gets_the_calibration_of_another(image, others, infos, expected):
    kinds = {topic: COMPRESSED if "compressed" in topic else RAW for topic in [image, *others]}
    assert info_topic(image, kinds | dict.fromkeys(infos, INFO)) == expected


def info(**changes) -> SimpleNamespace:
    K = [30.0, 0, 15.5, 0, 30.0, 11.5, 0, 0, 1]
    P = [20.0, 0, 14.5, 0, 0, 20.0, 10.5, 0, 0, 0, 1, 0]
    whole = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0)
    fields = {"width": 32, "height": 24, "k": K, "p": P, "d": [-0.3, 0.1, 0.0, 0.0, 0.0]}
    more = {"distortion_model": "plumb_bob", "binning_x": 0, "binning_y": 0, "roi": whole}
    return SimpleNamespace(**fields | more | changes)


@pytest.mark.parametrize(
    ("topic", "rectified"),
    [
        ("/cam/image_rect", True),
        ("/cam/image_rect_color/compressed", True),
        ("/cam/image_raw", False),
        ("/image_rect/image", False),
    ],
)
def test_what_image_proc_has_rectified_is_not_rectified_again(topic, rectified):
    """It leaves the raw camera's CameraInfo beside its images: they are P's."""
    assert is_rectified(topic) == rectified
    camera = camera_of_info(info(), rectified=is_rectified(topic))
    assert camera.K[0].tolist() == ([20, 0, 15] if rectified else [30, 0, 16])
    assert camera.distortion.any() == (not rectified)


@pytest.mark.parametrize("rectified", [False, True])
def test_a_part_of_the_sensor_in_bins_sees_what_the_whole_sees(rectified):
    roi = SimpleNamespace(x_offset=4, y_offset=6, width=20, height=12)
    whole = camera_of_info(info(), rectified=rectified)
    part = camera_of_info(info(roi=roi, binning_x=2, binning_y=3), rectified=rectified)
    assert (part.width, part.height) == (10, 4)
    xyz = np.array([0.1, -0.2, 1.5])
    expected = (project(xyz, whole.K) - [4, 6]) / [2, 3]
    np.testing.assert_allclose(project(xyz, part.K), expected)
