"""Which CameraInfo of a bag is that of an image topic."""

import pytest

from scal3r_ros.data.rosbag import COMPRESSED, INFO, RAW, info_topic


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
