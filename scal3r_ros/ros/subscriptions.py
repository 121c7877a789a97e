"""Images from a topic: reliability that matches, calibration, stamps that make sense."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from scal3r_ros.data.calibration import camera_of_info, is_rectified
from scal3r_ros.data.encodings import BitDepth, EncodingError
from scal3r_ros.data.sequence import SequenceError, Undistorter
from scal3r_ros.doctor import fast_dds_remedy
from scal3r_ros.geometry.camera import intrinsics
from scal3r_ros.mapping.types import Frame
from scal3r_ros.ros.conversions import image_to_rgb, stamp_to_ns
from scal3r_ros.ros.frame_queue import FrameCounters
from scal3r_ros.ros.interfaces import Status
from scal3r_ros.ros.listening import listen
from scal3r_ros.ros.mask import Mask
from scal3r_ros.ros.parameters import AnyNode, value
from scal3r_ros.ros.reliability import RECHECK_S, FollowingSubscription
from scal3r_ros.ros.running import STEADY

JUMP_NS = 500_000_000  # back by more than this, time has jumped; by less, an image was late
MOST_SIZES = 4  # of images, whose calibrations are kept
LATE_IN_A_ROW = 10  # late images that say the same


def resets_on_jump(node: AnyNode) -> bool:
    """Whether a map starts again where time goes back, or goes on in a new piece."""
    way, simulated = value(node, "on_time_jump"), bool(value(node, "use_sim_time"))
    return way == "reset" or (way == "auto" and simulated)


class ImageInput:
    """Subscribes to `image` and `camera_info`, hands over undistorted frames."""

    def __init__(
        self,
        node: AnyNode,
        on_frame: Callable[[Frame, str], None],
        counters: FrameCounters,
        *,
        on_jump: Callable[[], None] | None = None,
        rectified: bool | None = None,
    ) -> None:
        self.node, self.on_frame, self.counters = node, on_frame, counters
        self.on_jump = on_jump  # time went back: a bag started again, a clock was set
        self.transport = value(node, "image_transport")
        self.depth = value(node, "image_queue_depth")
        self.topic = "image" if self.transport == "raw" else "image/compressed"
        if rectified is None:
            rectified = is_rectified(node.resolve_topic_name(self.topic))
        self._rectified = rectified
        self.age_s = 0.0  # of the newest image when it arrived
        self._K = self._told_intrinsics()
        self._own_intrinsics = self._K is not None
        self._bits = BitDepth()  # of 16-bit images
        self._calibrations: dict[tuple[int, ...], Undistorter] = {}  # by height and width
        self._undistort: Undistorter | None = None  # of the newest image
        self._began_s = time.monotonic()
        self._last_ns = self._accepted_ns = -1
        self._late = 0  # in a row
        self._once = cache(node.get_logger().error)  # each text
        either = QoSProfile(depth=self.depth, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._info = listen(node, CameraInfo, "camera_info", self._on_info, either)
        self._mask = Mask(node, value(node, "mask_topic"), self._once)
        kind = Image if self.transport == "raw" else CompressedImage
        wanted = value(node, "image_reliability")
        self._subscription = FollowingSubscription(
            node, kind, self.topic, self._on_image, self.depth, wanted=wanted
        )
        self._timer = node.create_timer(RECHECK_S, self._look_for_calibration, clock=STEADY)

    @property
    def has_calibration(self) -> bool:
        return bool(self._calibrations) or self._own_intrinsics

    @property
    def intrinsics_source(self) -> int:
        if self.has_calibration:
            return Status.INTRINSICS_CAMERA_INFO
        if value(self.node, "use_camera_info") == "required":
            return Status.INTRINSICS_UNKNOWN
        return Status.INTRINSICS_ESTIMATED

    @property
    def lacks_calibration(self) -> bool:
        waited = time.monotonic() - self._began_s > value(self.node, "camera_info_timeout")
        return not self.has_calibration and waited and self.counters.received > 0

    def close(self) -> None:
        self.node.destroy_timer(self._timer)
        self.node.destroy_subscription(self._info)
        self._mask.close()
        self._subscription.close()

    def _look_for_calibration(self) -> None:
        if self.lacks_calibration and value(self.node, "use_camera_info") != "never":
            waits = value(self.node, "use_camera_info") == "required"
            name = self.node.resolve_topic_name("camera_info")
            what = "nothing is mapped until it comes" if waits else "intrinsics are estimated"
            self._once(f"no calibration on {name}: {what}")

    def describe(self) -> str:
        """Topic and publishers, for the watchdog."""
        return self._subscription.describe()

    def why_silent(self) -> str:
        """The likely reason why no image arrives, in one line."""
        told, unreliable = self.describe(), self._subscription.unreliable
        if not self._subscription.publishers:
            return f"{told}; is the topic right (remap image:=...)?"
        if unreliable and value(self.node, "image_reliability") == "reliable":
            return f"{told}; image_reliability:=reliable does not fit a best-effort publisher"
        if unreliable:
            return f"{told}; large best-effort images are lost by default: {fast_dds_remedy()}"
        if value(self.node, "use_sim_time") and not self.node.get_clock().now().nanoseconds:
            return f"{told}; use_sim_time is set and nobody publishes /clock"
        return f"{told}; they are there but send nothing"

    def _told_intrinsics(self) -> Float[ndarray, "3 3"] | None:
        """Of the parameter, in OpenCV's convention (integer pixel centres) as camera_info."""
        numbers = list(value(self.node, "intrinsics"))
        if len(numbers) != 4:
            return None
        K = intrinsics(*numbers)
        K[:2, 2] += 0.5
        return K

    def _on_info(self, info: CameraInfo) -> None:
        if value(self.node, "use_camera_info") == "never" or self._own_intrinsics:
            return
        try:
            camera = camera_of_info(info, rectified=self._rectified)
        except EncodingError as error:
            self._once(f"camera_info: {error}")
            return
        if camera is None:
            self._once("camera_info holds no calibration (K is zero): estimating intrinsics")
            return
        if not value(self.node, "rectify"):
            camera = replace(camera, distortion=np.zeros(0))
        size = camera.height, camera.width
        known = self._calibrations.get(size)
        if known is None or not known.camera.same_as(camera):
            self._calibrations[size] = Undistorter(camera)
        if len(self._calibrations) > MOST_SIZES:
            del self._calibrations[next(iter(self._calibrations))]

    def _on_image(self, message: Any) -> None:
        self.counters.received += 1
        stamp_ns = stamp_to_ns(message.header.stamp)
        if stamp_ns == 0 or (stamp_ns <= self._last_ns and not self._jumped(stamp_ns)):
            self._refuse("image stamps must be set and increase: images without are dropped")
            return
        if self._waits_for_mask() or self._waits_for_calibration() or self._too_soon(stamp_ns):
            return
        try:
            image, K = self._undistorted(self._mask.hide(image_to_rgb(message, self._bits)))
        except (EncodingError, SequenceError) as error:
            self._refuse(str(error))
            return
        self._last_ns, self._accepted_ns, self._late = stamp_ns, stamp_ns, 0
        self.counters.dropped_in_a_row = 0
        self.age_s = (self.node.get_clock().now().nanoseconds - stamp_ns) * 1e-9
        frame_id = value(self.node, "camera_frame") or message.header.frame_id
        scene = self._mask.scene(image.shape[:2], None if self._own_intrinsics else self._undistort)
        frame = Frame(self.counters.received - 1, stamp_ns, image, K, scene=scene)
        self.on_frame(frame, frame_id or "camera_optical_frame")

    def _undistorted(
        self, image: UInt8[ndarray, "h w 3"]
    ) -> tuple[UInt8[ndarray, "h w 3"], Float[ndarray, "3 3"] | None]:
        if self._own_intrinsics:
            return image, self._K
        if not self._calibrations:
            return image, None
        newest = next(reversed(self._calibrations.values()))
        self._undistort = self._calibrations.get(image.shape[:2], newest)
        return self._undistort(image), self._undistort.K

    def _waits_for_mask(self) -> bool:
        if self._mask.awaited:
            topic = self.node.resolve_topic_name(value(self.node, "mask_topic"))
            self._once(f"no image is used before a mask comes on {topic}")
        return self._mask.awaited

    def _waits_for_calibration(self) -> bool:
        return value(self.node, "use_camera_info") == "required" and not self.has_calibration

    def _too_soon(self, stamp_ns: int) -> bool:
        """Faster than `max_rate`, with a little tolerance for stamps that jitter."""
        rate = value(self.node, "max_rate")
        gap_ns = stamp_ns - self._accepted_ns
        return rate > 0 and self._accepted_ns > 0 and 0 < gap_ns < 0.9e9 / rate

    def _refuse(self, why: str) -> None:
        self.counters.dropped_invalid += 1
        self.counters.dropped_in_a_row += 1
        self._once(why)

    def _jumped(self, stamp_ns: int) -> bool:
        """Whether time itself went back, rather than this image being late or sent twice."""
        ignored = value(self.node, "on_time_jump") == "ignore"
        if self.on_jump is None or ignored or stamp_ns == self._last_ns:
            return False
        self._late += 1
        if self._last_ns - stamp_ns < JUMP_NS and self._late < LATE_IN_A_ROW:
            return False
        back_s = (self._last_ns - stamp_ns) * 1e-9
        self.node.get_logger().warning(f"stamps went back by {back_s:.1f} s")
        self.on_jump()
        return True
