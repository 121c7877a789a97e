"""Images that image_proc has rectified, to the nodes and to replay."""

import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from scal3r_ros.ros.conversions import camera_to_info, header, rgb_to_image
from scal3r_ros.ros.frame_queue import FrameCounters
from scal3r_ros.ros.offline_node import OfflineNode
from scal3r_ros.ros.parameters import MAPPING
from scal3r_ros.ros.subscriptions import ImageInput

pytestmark = pytest.mark.ros


class Remapped(OfflineNode):
    """As rclpy resolves the name of the images' topic."""

    def resolve_topic_name(self, topic: str) -> str:
        return {"image": "/cam/image_rect"}.get(topic, f"/{topic}")


def info_of_image_proc() -> CameraInfo:
    K = np.array([[30.0, 0, 16], [0, 30, 12], [0, 0, 1]])
    info = camera_to_info(K, 24, 32, Header(), np.array([-0.3, 0.1, 0, 0, 0]))
    info.p = [20.0, 0, 14.5, 0, 0, 20.0, 10.5, 0, 0, 0, 1, 0]
    return info


@pytest.mark.parametrize("known", ["by its name", "by the bag's", "raw"])
def test_they_pass_as_they_are_with_the_camera_of_p(tmp_path, rng, known):
    kind = Remapped if known == "by its name" else OfflineNode
    node, frames = kind(MAPPING, {}, tmp_path / "bag"), []
    rectified = True if known == "by the bag's" else None
    images = ImageInput(node, lambda f, _: frames.append(f), FrameCounters(), rectified=rectified)
    pixels = rng.integers(0, 255, (24, 32, 3), np.uint8)
    images._on_info(info_of_image_proc())
    images._on_image(rgb_to_image(pixels, header(10**9, "cam")))
    node.close()
    as_it_is = np.array_equal(frames[0].image, pixels)
    assert (frames[0].K[0, 0], as_it_is) == ((30.0, False) if known == "raw" else (20.0, True))
