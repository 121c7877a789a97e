"""The camera process of `scal3r bench ros`: real time, the wall clock as stamps."""

import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from scal3r_ros.data.sequence import open_sequence
from scal3r_ros.geometry.camera import scale_intrinsics
from scal3r_ros.ros.conversions import (
    camera_to_info,
    header,
    ns_to_stamp,
    rgb_to_image,
    to_ros_bytes,
)

FRAMES = 120  # of the sequence, to and fro
RECORDED_HZ = 10.0  # of the example sequence


def camera(options: dict[str, Any]) -> None:
    """Publishes for every robot; the last digits of a stamp name it."""
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)  # SIGTERM simply ends it
    node = Node("bench_camera")
    size = options["width"], options["height"]
    frames = [
        f for f, _ in zip(open_sequence(Path(options["sequence"])), range(FRAMES), strict=False)
    ]
    pictures = _at_rate([cv2.resize(f.image, size) for f in frames], options["rate"])
    messages = [_message(picture, options["compressed"]) for picture in pictures]
    K = frames[0].K
    assert K is not None
    K = scale_intrinsics(K, frames[0].image.shape[:2], size[::-1])
    qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
    kind, topic = (
        (CompressedImage, "image/compressed") if options["compressed"] else (Image, "image")
    )
    publishers = [
        (node.create_publisher(kind, f"/{name}/{topic}", qos),
         node.create_publisher(CameraInfo, f"/{name}/camera_info", qos))
        for name in options["names"]
    ]  # fmt: skip
    order = [*range(len(messages)), *range(len(messages) - 2, 0, -1)]
    due, count = time.monotonic(), 0
    while rclpy.ok():
        message = messages[order[count % len(order)]]
        now_ns = time.time_ns() // 1000 * 1000
        for index, (images, infos) in enumerate(publishers):
            stamp_ns = now_ns + index
            message.header.stamp = ns_to_stamp(stamp_ns)
            images.publish(message)
            head = header(stamp_ns, "camera_optical_frame")
            infos.publish(camera_to_info(K, size[1], size[0], head))
        count += 1
        due += 1 / options["rate"]
        time.sleep(max(0.0, due - time.monotonic()))


def _at_rate(images: list[np.ndarray], rate: float) -> list[np.ndarray]:
    """A sequence of 10 Hz with images between its own, moved by optical flow: so that the camera
    moves as fast as it did, and no two images are the same."""
    between = max(1, round(rate / RECORDED_HZ))
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    v, u = np.mgrid[: images[0].shape[0], : images[0].shape[1]].astype(np.float32)
    result = []
    for a, b in itertools.pairwise(images):
        greys = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (b, a)]
        back = flow.calc(greys[0], greys[1], None)
        for part in range(between):
            share = part / between
            moved = cv2.remap(a, u + share * back[..., 0], v + share * back[..., 1], 1)
            result.append(np.asarray(moved))
    return result


def _message(image: np.ndarray, compressed: bool) -> Image | CompressedImage:
    head = Header(frame_id="camera_optical_frame")
    if not compressed:
        return rgb_to_image(np.ascontiguousarray(image), head)
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    return CompressedImage(header=head, format="jpeg", data=to_ros_bytes(data.reshape(-1)))


if __name__ == "__main__":
    camera(json.loads(sys.argv[1]))
