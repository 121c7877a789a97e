"""Images from a topic: reliability that matches, calibration, a bounded queue that thins evenly."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from scal3r_ros.data.encodings import EncodingError
from scal3r_ros.data.sequence import SequenceError, Undistorter
from scal3r_ros.mapping.types import Frame
from scal3r_ros.ros.conversions import image_to_rgb, info_to_camera, stamp_to_ns

RECHECK_S = 1.0  # publishers are looked at again until the first image
JUMP_NS = 500_000_000  # back by more than this, time has jumped; by less, an image was late
LATE_IN_A_ROW = 10  # late images that say the same


@dataclass
class FrameCounters:
    received: int = 0
    dropped_overload: int = 0
    dropped_invalid: int = 0


class FrameQueue:
    """Between callback and worker. When full every second waiting frame goes: evenly, counted.

    A contiguous run is never cut out, and frames that have become keyframes are not in here.
    """

    def __init__(self, limit: int, counters: FrameCounters) -> None:
        self.limit, self.counters = limit, counters
        self._frames: list[Frame] = []
        self._ready = threading.Condition()
        self._generation = self._taken = 0

    def put(self, frame: Frame) -> None:
        with self._ready:
            self._frames.append(frame)
            if len(self._frames) > self.limit:
                before = len(self._frames)
                self._frames = self._frames[::2] if before % 2 else self._frames[1::2]
                self.counters.dropped_overload += before - len(self._frames)
            self._ready.notify()

    def get(self, timeout_s: float) -> Frame | None:
        with self._ready:
            if not self._frames:
                self._ready.wait(timeout_s)
            if not self._frames:
                return None
            self._taken = self._generation
            return self._frames.pop(0)

    def clear(self) -> None:
        """Takes back the frame too that the worker has not begun with: see `is_current`."""
        with self._ready:
            self._frames.clear()
            self._generation += 1

    def is_current(self) -> bool:
        """Whether the frame taken last belongs to what is going on now."""
        with self._ready:
            return self._taken == self._generation

    def __len__(self) -> int:
        return len(self._frames)


class ImageInput:
    """Subscribes to `image` and `camera_info`, hands over undistorted frames."""

    def __init__(
        self,
        node: Node,
        on_frame: Callable[[Frame, str], None],
        counters: FrameCounters,
        *,
        transport: str = "raw",
        reliability: str = "auto",
        depth: int = 10,
        on_jump: Callable[[], None] | None = None,
    ) -> None:
        self.node, self.on_frame, self.counters = node, on_frame, counters
        self.on_jump = on_jump  # time went back: a bag started again, a clock was set
        self.transport, self.reliability, self.depth = transport, reliability, depth
        self.topic = "image" if transport == "raw" else "image/compressed"
        self.frame_id = ""
        self._undistort: Undistorter | None = None
        self._last_ns = -1
        self._late = 0  # in a row
        self._told: set[str] = set()
        self._subscription: Any = None
        self._reliable: bool | None = None
        self._info = node.create_subscription(CameraInfo, "camera_info", self._on_info, depth)
        self._subscribe()
        self._timer = node.create_timer(RECHECK_S, self._recheck)

    @property
    def has_calibration(self) -> bool:
        return self._undistort is not None

    def close(self) -> None:
        self.node.destroy_timer(self._timer)
        self.node.destroy_subscription(self._info)
        self.node.destroy_subscription(self._subscription)

    def _subscribe(self) -> None:
        reliable = self._wanted()
        if reliable == self._reliable:
            return
        if self._subscription is not None:
            self.node.destroy_subscription(self._subscription)
        self._reliable = reliable
        policy = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        kind = Image if self.transport == "raw" else CompressedImage
        qos = QoSProfile(depth=self.depth, reliability=policy)
        self._subscription = self.node.create_subscription(kind, self.topic, self._on_image, qos)

    def _wanted(self) -> bool:
        """auto: reliable when every publisher is, because large best-effort images do not arrive
        over Fast DDS at its default settings."""
        if self.reliability != "auto":
            return self.reliability == "reliable"
        name = self.node.resolve_topic_name(self.topic)
        publishers = self.node.get_publishers_info_by_topic(name)
        return all(p.qos_profile.reliability == ReliabilityPolicy.RELIABLE for p in publishers)

    def _recheck(self) -> None:
        if self.counters.received == 0:
            self._subscribe()

    def publishers(self) -> int:
        return self.node.count_publishers(self.node.resolve_topic_name(self.topic))

    def describe(self) -> str:
        """Topic and publishers, for the watchdog."""
        name = self.node.resolve_topic_name(self.topic)
        publishers = self.node.get_publishers_info_by_topic(name)
        kinds = ", ".join(p.qos_profile.reliability.name for p in publishers) or "none"
        return f"{name}: {len(publishers)} publishers ({kinds})"

    def _on_info(self, info: CameraInfo) -> None:
        camera = info_to_camera(info)
        if camera is None:
            self._once("camera_info holds no calibration (K is zero): estimating intrinsics")
            return
        if self._undistort is None or (self._undistort.K != camera.K).any():
            self._undistort = Undistorter(camera)

    def _on_image(self, message: Any) -> None:
        self.counters.received += 1
        stamp_ns = stamp_to_ns(message.header.stamp)
        if stamp_ns == 0 or (stamp_ns <= self._last_ns and not self._jumped(stamp_ns)):
            self.counters.dropped_invalid += 1
            self._once("image stamps must be set and increase: images without are dropped")
            return
        try:
            image = image_to_rgb(message)
            K = None
            if self._undistort is not None:
                image, K = self._undistort(image), self._undistort.K
        except (EncodingError, SequenceError) as error:
            self.counters.dropped_invalid += 1
            self._once(str(error))
            return
        self._last_ns, self._late = stamp_ns, 0
        self.frame_id = message.header.frame_id or "camera_optical_frame"
        self.on_frame(Frame(self.counters.received - 1, stamp_ns, image, K), self.frame_id)

    def _jumped(self, stamp_ns: int) -> bool:
        """Whether time itself went back, rather than this image being late or sent twice."""
        if self.on_jump is None or stamp_ns == self._last_ns:
            return False
        self._late += 1
        if self._last_ns - stamp_ns < JUMP_NS and self._late < LATE_IN_A_ROW:
            return False
        back_s = (self._last_ns - stamp_ns) * 1e-9
        self.node.get_logger().warning(f"stamps went back by {back_s:.1f} s: starting again")
        self.on_jump()
        return True

    def _once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self.node.get_logger().error(text)
