"""Pictures: what is near hides what is far, and colours stay colours."""

import numpy as np
import pytest

from scal3r_ros.evaluation.render import draw_cloud, look_at, render_map
from scal3r_ros.mapping.point_map import Cloud


def plane(x: float, size: float, colour: tuple[int, int, int]) -> Cloud:
    y, z = np.meshgrid(np.linspace(-size, size, 300), np.linspace(-size, size, 300))
    xyz = np.stack([np.full(y.size, x), y.ravel(), z.ravel()], 1).astype(np.float32)
    return Cloud(xyz, np.tile(np.uint8(colour), (len(xyz), 1)), np.ones(len(xyz), np.float32))


def test_a_near_red_square_hides_the_middle_of_a_far_blue_one():
    near, far = plane(2.0, 0.3, (255, 0, 0)), plane(4.0, 2.0, (0, 0, 255))
    both = Cloud(*(np.concatenate([getattr(c, n) for c in (far, near)]) for n in vars(near)))
    view = look_at(np.zeros(3), np.array([1.0, 0, 0]), 160, 120, 60.0)
    image, depth = draw_cloud(both, view)
    assert image[60, 80].tolist()[0] > 200 > image[60, 80].tolist()[2]
    assert image[10, 80].tolist()[2] > 200 > image[10, 80].tolist()[0]
    assert depth[60, 80] == pytest.approx(2.0, abs=0.1)


def test_an_empty_map_is_no_picture(tmp_path):
    empty = Cloud(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8), np.zeros(0, np.float32))
    with pytest.raises(ValueError, match="empty"):
        render_map(tmp_path / "m.png", empty, np.eye(4)[None])
