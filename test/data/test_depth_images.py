"""Depth beside images: what its numbers mean."""

import cv2
import numpy as np
import pytest

from scal3r_ros.data.sequence import SequenceError
from scal3r_ros.data.sequence_folder import read_depth


def test_a_depth_image_is_in_millimetres_or_metres_by_its_type(tmp_path):
    """Metres taken for millimetres would be a map a thousand times too small."""
    metres = np.array([[0.0, 1.5], [2.25, np.nan]], np.float32)
    cv2.imwrite(str(tmp_path / "metres.tiff"), metres)
    cv2.imwrite(str(tmp_path / "millimetres.png"), np.uint16([[0, 1500], [2250, 0]]))
    for name in ("metres.tiff", "millimetres.png"):
        np.testing.assert_array_equal(read_depth(tmp_path / name), [[0, 1.5], [2.25, 0]])
    cv2.imwrite(str(tmp_path / "bytes.png"), np.uint8([[0, 150], [225, 0]]))
    with pytest.raises(SequenceError, match=r"uint16 millimetres or float32 metres, got uint8"):
        read_depth(tmp_path / "bytes.png")
