"""What else may tell metres and up: a depth sensor, the right camera of a pair, an IMU."""

from collections import OrderedDict
from dataclasses import replace
from functools import cache
from typing import Any

from jaxtyping import Float32
from numpy import ndarray
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from scal3r_ros.data.encodings import BitDepth, EncodingError
from scal3r_ros.geometry.camera import same_aspect
from scal3r_ros.mapping.mapper import Mapper
from scal3r_ros.mapping.types import Frame
from scal3r_ros.ros.conversions import (
    image_to_depth,
    image_to_rgb,
    ns_to_stamp,
    stamp_to_ns,
)
from scal3r_ros.ros.fallback.filters import approximate_synchronizer, simple_filter
from scal3r_ros.ros.frames import RobotFrame
from scal3r_ros.ros.imu import ImuInput
from scal3r_ros.ros.listening import listen
from scal3r_ros.ros.parameters import AnyNode, value
from scal3r_ros.ros.reliability import FollowingSubscription

QUEUE = 30
MANY = 30  # images without depth, or without the other of the pair: more than bad luck


class StampedFrame:
    """What the synchroniser needs of an image that has been converted already."""

    def __init__(self, stamp_ns: int) -> None:
        self.header = Header(stamp=ns_to_stamp(stamp_ns))


class ScaleSensors:
    """Subscribes to what the parameters ask for; adds it to the frames before they are mapped."""

    def __init__(self, node: AnyNode, robot: RobotFrame, mapper: Mapper) -> None:
        self.node, self.robot, self.mapper = node, robot, mapper
        self._other: FollowingSubscription | None = None  # depth, or the right image
        self._info: Any = None
        self.imu: ImuInput | None = None
        self._baseline = 0.0
        self._bits = BitDepth()  # of the right images
        self._heard, self._newest_ns = False, -1  # pairs come at all; stamp of the newest
        self._alone = 0  # images in a row that came without
        self._pairs: OrderedDict[int, Any] = OrderedDict()  # stamp of the image -> message
        self._once = cache(node.get_logger().error)  # each text
        self._images, self._others = simple_filter(), simple_filter()
        source = value(node, "scale_source")
        self.paired = source in ("depth", "stereo")
        tolerance = value(node, "sensor_tolerance")
        matched = approximate_synchronizer([self._images, self._others], QUEUE, tolerance)
        matched.registerCallback(self._on_pair)
        if source == "depth":
            self._follow("sensor_depth/image")
        elif source == "stereo":
            self._follow("right/image")
            qos = QoSProfile(depth=QUEUE, reliability=ReliabilityPolicy.BEST_EFFORT)
            self._info = listen(node, CameraInfo, "right/camera_info", self._on_right_info, qos)
        if "imu" in (source, value(node, "map_orientation")):
            self.imu = ImuInput(node, robot, lambda: mapper.metric.sources.imu)

    def see(self, frame: Frame, frame_id: str) -> None:
        """Tells of an image that arrived, so that its depth or right image can be found."""
        if self.imu is not None:
            self.imu.camera_frame = frame_id
        if self.paired:
            self._images.signalMessage(StampedFrame(frame.stamp_ns))

    def close(self) -> None:
        if self._other is not None:
            self._other.close()
        if self._info is not None:
            self.node.destroy_subscription(self._info)
        if self.imu is not None:
            self.imu.close()

    def clear(self) -> None:
        """Time went back."""
        self._pairs.clear()
        self._newest_ns = -1
        self.mapper.metric.sources.imu.clear()

    def complete(self, frame: Frame, *, wait: bool) -> Frame | None:
        """The frame with what was measured at its stamp, if anything was; None while it may still
        come and `wait` is set."""
        message = self._pairs.pop(frame.stamp_ns, None)
        if message is None:
            may_come = self._heard and self._newest_ns <= frame.stamp_ns
            if wait and may_come:
                return None
            self._count_alone()
            return frame
        self._alone = 0
        try:
            if value(self.node, "scale_source") == "depth":
                return replace(frame, depth=self._checked(image_to_depth(message), frame))
            right = image_to_rgb(message, self._bits)
        except EncodingError as error:
            self._once(str(error))
            return frame
        if right.shape != frame.image.shape:
            self._once(f"right/image must be as large as image {frame.image.shape[:2]}")
            return frame
        return replace(frame, right=right, baseline=self._baseline)

    @property
    def trouble(self) -> str:
        """Why many images in a row came without depth or right image, as far as we know."""
        if self._other is None or self._alone < MANY:
            return ""
        tolerance, told = value(self.node, "sensor_tolerance"), self._other.describe()
        return f"{MANY} images in a row without one within {tolerance:g} s on {told}"

    def _count_alone(self) -> None:
        self._alone += 1
        if self._alone == MANY and self._other is not None:
            self.node.get_logger().warning(self.trouble)

    def _checked(
        self, depth: Float32[ndarray, "h w"], frame: Frame
    ) -> Float32[ndarray, "h w"] | None:
        """Only of the same view: registered depth has the same aspect."""
        sizes = depth.shape, frame.image.shape[:2]
        if not same_aspect(*sizes):
            self._once(f"sensor_depth/image {sizes[0]} is not registered to image {sizes[1]}")
            return None
        return depth

    def _follow(self, topic: str) -> None:
        self._other = FollowingSubscription(
            self.node, Image, topic, self._others.signalMessage, QUEUE
        )

    def _on_pair(self, image: StampedFrame, other: Any) -> None:
        self._heard, self._newest_ns = True, stamp_to_ns(image.header.stamp)
        self._pairs[self._newest_ns] = other
        while len(self._pairs) > value(self.node, "max_pending_frames") + QUEUE:
            self._pairs.popitem(last=False)

    def _on_right_info(self, info: CameraInfo) -> None:
        if info.p[0] <= 0 or info.p[3] >= 0:
            self._once(
                f"right/camera_info must have P[0] > 0 and P[3] = -P[0] * baseline < 0, "
                f"got {info.p[0]:g} and {info.p[3]:g}"
            )
            return
        self._baseline = -info.p[3] / info.p[0]
