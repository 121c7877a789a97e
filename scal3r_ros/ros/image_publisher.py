"""image_publisher: a folder, a video or a bag becomes `image` and `camera_info`.

It can hold back while the mapper has many images pending, so that a demo on a slow machine loses
none; a real camera does not wait, and then the mapper thins.
"""

import sys
import time
from pathlib import Path

import rclpy
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from scal3r_ros.data.sequence import Sequence, open_sequence
from scal3r_ros.ros.conversions import camera_to_info, ns_to_stamp, rgb_to_image
from scal3r_ros.ros.interfaces import Status
from scal3r_ros.ros.map_publisher import LATCHED

MIN_DEPTH = 20
WAIT_S = 0.02  # at most, before the clock is looked at again; a status is heard at once


class ImagePublisher(Node):
    def __init__(self) -> None:
        super().__init__("image_publisher")
        self.declare_parameter("sequence", "")
        # against the sequence's own stamps; 0: as fast as possible
        self.declare_parameter("rate", 1.0, ParameterDescriptor(dynamic_typing=True))
        self.declare_parameter("frame_id", "camera_optical_frame")
        self.declare_parameter("max_pending", 0)  # images the mapper may have waiting; 0: any
        self.declare_parameter("wait_for_subscribers", 1)
        self.declare_parameter("max_images", 0)
        self.declare_parameter("publish_clock", False)  # the sequence's stamps as /clock
        if type(self._get("rate")) not in (int, float) or self._get("rate") < 0:
            raise ValueError(f"rate must be a number that is not negative, got {self._get('rate')}")
        # all images that may be under way are kept until they are acknowledged
        depth = max(MIN_DEPTH, 2 * self._get("max_pending"))
        qos = QoSProfile(depth=depth, reliability=ReliabilityPolicy.RELIABLE)
        self._images = self.create_publisher(Image, "image", qos)
        self._infos = self.create_publisher(CameraInfo, "camera_info", qos)
        self._clock_out = self.create_publisher(Clock, "/clock", 10)
        self._published = 0
        self._mapper: Status | None = None
        self.create_subscription(Status, "status", self._on_status, LATCHED)

    def _on_status(self, status: Status) -> None:
        self._mapper = status

    def _get(self, name: str):
        return self.get_parameter(name).value

    def run(self) -> None:
        sequence = open_sequence(Path(self._get("sequence")))
        wanted = self._get("wait_for_subscribers")
        while self._images.get_subscription_count() < wanted:
            rclpy.spin_once(self, timeout_sec=0.1)
        self._play(sequence)
        while self._images.get_subscription_count() and not self._images.wait_for_all_acked():
            rclpy.spin_once(self, timeout_sec=0.1)
        self.get_logger().info(f"published {self._published} images of {sequence.name}")

    def _play(self, sequence: Sequence) -> None:
        rate, limit = self._get("rate"), self._get("max_images")
        first_ns, began = None, time.monotonic()
        for frame in sequence:
            if limit and self._published >= limit:
                return
            first_ns = frame.stamp_ns if first_ns is None else first_ns
            due = began + (frame.stamp_ns - first_ns) / 1e9 / rate if rate > 0 else 0.0
            while (ahead := due - time.monotonic()) > 0 or self._must_wait():
                rclpy.spin_once(self, timeout_sec=min(ahead, WAIT_S) if ahead > 0 else WAIT_S)
            if self._get("publish_clock"):
                self._clock_out.publish(Clock(clock=ns_to_stamp(frame.stamp_ns)))
            head = Header(stamp=ns_to_stamp(frame.stamp_ns), frame_id=self._get("frame_id"))
            if frame.K is not None:
                self._infos.publish(camera_to_info(frame.K, *frame.image.shape[:2], head))
            self._images.publish(rgb_to_image(frame.image, head))
            self._published += 1
            rclpy.spin_once(self, timeout_sec=0)

    def _must_wait(self) -> bool:
        """Whether the mapper is too far behind what has been published."""
        limit = self._get("max_pending")
        if not limit:
            return False
        if self._mapper is None:
            return self._published >= limit
        unseen = self._published - self._mapper.frames_received
        return unseen + self._mapper.pending_frames > limit


def main() -> None:
    code, node = 0, None
    rclpy.init()
    try:
        node = ImagePublisher()
        node.run()
    except (ParameterException, ValueError, OSError) as error:
        print(f"image_publisher: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        code = 130
    finally:
        if node is not None:
            node.destroy_node()
        if rclpy.ok():
            rclpy.shutdown()
    sys.exit(code)


if __name__ == "__main__":
    main()
