"""camera.yaml as people write it: with or without a model, or as camera_calibration does."""

import numpy as np
import pytest

from scal3r_ros.data.calibration import camera_of_info, read_camera
from scal3r_ros.data.encodings import EncodingError
from scal3r_ros.data.sequence import SequenceError
from test.data.test_bag_cameras import info

OURS = "width: 32\nheight: 24\nfx: 30\nfy: 31\ncx: 15.5\ncy: 11.5\n"
EQUIDISTANT = "distortion_model: equidistant\n"
ROS = """image_width: 32
image_height: 24
camera_name: front
camera_matrix: {rows: 3, cols: 3, data: [30, 0, 15.5, 0, 31, 11.5, 0, 0, 1]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [-0.3, 0.1, 0, 0, 0]}
"""


def coefficients(*values: float) -> str:
    return f"distortion_coefficients: {list(values)}\n"


@pytest.mark.parametrize(
    ("text", "distortion", "fisheye"),
    [
        (OURS, [], False),
        (OURS + coefficients(-0.3, 0.1, 0, 0), [-0.3, 0.1, 0, 0], False),  # no model: plumb_bob
        (OURS + coefficients(0.1, 0, 0, 0, 0, 0.2, 0, 0), [0.1, 0, 0, 0, 0, 0.2, 0, 0], False),
        (OURS + "distortion_model: none\n" + coefficients(-0.3, 0.1, 0, 0), [], False),
        (OURS + EQUIDISTANT + coefficients(0.1, 0, 0, 0), [0.1, 0, 0, 0], True),
        (ROS, [-0.3, 0.1, 0, 0, 0], False),
    ],
)
def test_each_way_to_write_it_is_read(tmp_path, text, distortion, fisheye):
    (tmp_path / "camera.yaml").write_text(text)
    camera = read_camera(tmp_path / "camera.yaml")
    assert (camera.width, camera.height, camera.fisheye) == (32, 24, fisheye)
    np.testing.assert_allclose(camera.K, [[30, 0, 16], [0, 31, 12], [0, 0, 1]])
    np.testing.assert_allclose(camera.distortion, distortion)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (OURS + coefficients(0.1, 0, 0), "plumb_bob, rational_polynomial, .*got ''"),
        (OURS + "distortion_model: omni\n" + coefficients(0.1, 0, 0, 0), "got 'omni'"),
        (OURS + coefficients(float("nan"), 0, 0, 0).replace("nan", ".nan"), "finite numbers of"),
        (OURS + "distortion_coefficients: abc\n", "must give width, height, fx"),
        (OURS.replace("30", "-30"), "focal lengths must be positive"),
        ("- 1\n", "must give width, height, fx"),
        ("", "must give width, height, fx"),
        (ROS.replace("0, 0, 1]", "0]"), "must give width, height, fx"),
    ],
)
def test_what_is_not_understood_is_refused_in_one_line(tmp_path, text, said):
    (tmp_path / "camera.yaml").write_text(text)
    with pytest.raises(SequenceError, match=said) as raised:
        read_camera(tmp_path / "camera.yaml")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"d": [float("nan")] * 5}, "finite numbers of distortion are expected"),
        ({"k": [float("nan")] * 9}, "K must be finite"),
        ({"distortion_model": "omni"}, "rational_polynomial, equidistant, fisheye, got 'omni'"),
    ],
)
def test_a_camera_info_that_makes_no_sense_is_refused_as_a_message(changes, said):
    with pytest.raises(EncodingError, match=said):
        camera_of_info(info(**changes))
