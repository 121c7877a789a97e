"""`scal3r doctor --image TOPIC`: what a running system gets wrong, with the remedy in one line."""

import os
import time
from collections import Counter, defaultdict
from functools import partial
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tf2_msgs.msg import TFMessage

from scal3r_ros.data.calibration import camera_of_info, is_rectified
from scal3r_ros.data.encodings import EncodingError
from scal3r_ros.data.rosbag import COMPRESSED, RAW
from scal3r_ros.doctor import Finding, fast_dds_remedy
from scal3r_ros.ros.conversions import image_to_rgb, stamp_to_ns
from scal3r_ros.ros.fallback.tf import DYNAMIC, STATIC, TransformError, TransformTree
from scal3r_ros.ros.launch_arguments import beside

DISCOVERY_S = 5.0
OLD_S = 1.0
STEPS_BACK = 3  # of the stamps of one transform: a single publisher makes none
KINDS = {"sensor_msgs/msg/Image": RAW, "sensor_msgs/msg/CompressedImage": COMPRESSED}


class Examination:
    """Listens for some seconds to a camera, its calibration, the clock and the transforms."""

    def __init__(self, image: str, base_frame: str, *, use_sim_time: bool) -> None:
        self.image, self.base_frame, self.use_sim_time = image, base_frame, use_sim_time
        self.node = Node("doctor")
        self.stamps: list[int] = []
        self.ages_s: list[float] = []
        self.frame_id = ""
        self.trouble = ""  # of the newest image that could not be read
        self.infos: list[CameraInfo] = []
        self.clock = 0
        self.parents: dict[str, set[str]] = defaultdict(set)
        self.steps_back: Counter[tuple[str, str]] = Counter()  # of the stamps of a transform
        self._stamps: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.tree = TransformTree()

    def listen(self, seconds: float) -> None:
        executor = SingleThreadedExecutor()
        executor.add_node(self.node)
        began = time.monotonic()
        while self._kind() is None and time.monotonic() - began < DISCOVERY_S:
            self._spin(executor, 0.2)
        self._spin(executor, 0.5)  # others may publish too
        kind = self._kind()
        if kind is not None:
            reliable = all(
                p.qos_profile.reliability == ReliabilityPolicy.RELIABLE
                for p in self.node.get_publishers_info_by_topic(self.image)
            )
            policy = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
            qos = QoSProfile(depth=10, reliability=policy)
            self.node.create_subscription(kind, self.image, self._on_image, qos)
        best = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
        self.node.create_subscription(CameraInfo, self.info_topic, self.infos.append, best)
        self.node.create_subscription(Clock, "/clock", self._on_clock, best)
        self.node.create_subscription(TFMessage, "/tf", self._take, DYNAMIC)
        statics = partial(self._take, static=True)
        self.node.create_subscription(TFMessage, "/tf_static", statics, STATIC)
        self._spin(executor, seconds)
        executor.shutdown()

    @property
    def info_topic(self) -> str:
        return beside(self.image.removesuffix("/compressed"), "camera_info")

    def findings(self) -> list[Finding]:
        return [
            *self._publisher(),
            *self._calibration(),
            *self._time(),
            *self._transforms(),
        ]

    def _publisher(self) -> list[Finding]:
        publishers = self.node.get_publishers_info_by_topic(self.image)
        name = f"images on {self.image}"
        if not publishers:
            others = [
                topic
                for topic, kinds in self.node.get_topic_names_and_types()
                if set(kinds) & set(KINDS)
            ]
            there = f"image topics here: {', '.join(others)}" if others else "no image topic at all"
            return [Finding(name, False, f"no publisher; {there}: pass image_topic:=...")]
        if self.trouble:
            return [Finding(name, False, self.trouble)]
        kinds = ", ".join(p.qos_profile.reliability.name for p in publishers)
        if not self.stamps and "BEST_EFFORT" in kinds:
            text = f"published best-effort and none arrives: {fast_dds_remedy()}"
            return [Finding(name, False, text)]
        if not self.stamps:
            return [Finding(name, False, f"{len(publishers)} publishers ({kinds}) send nothing")]
        several = f"; {len(publishers)} publishers: is one too many?" if len(publishers) > 1 else ""
        text = f"{len(self.stamps)} arrived ({kinds}){several}"
        return [Finding(name, len(publishers) == 1, text), *self._listeners(publishers)]

    def _listeners(self, publishers: list[Any]) -> list[Finding]:
        """Who asks for more than the camera gives hears nothing."""
        unreliable = any(
            p.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT for p in publishers
        )
        return [
            Finding(
                f"{s.node_name} listens to {self.image}",
                False,
                "it wants reliable images, the camera publishes best-effort: nothing arrives; "
                "set its image_reliability to auto",
            )
            for s in self.node.get_subscriptions_info_by_topic(self.image)
            if unreliable and s.qos_profile.reliability == ReliabilityPolicy.RELIABLE
        ]

    def _calibration(self) -> list[Finding]:
        name = f"calibration on {self.info_topic}"
        if not self.infos:
            text = "no camera_info: intrinsics will be estimated; publish it for better maps"
            return [Finding(name, False, text)]
        try:
            camera = camera_of_info(self.infos[-1], rectified=is_rectified(self.image))
        except (EncodingError, ValueError) as error:
            return [Finding(name, False, str(error))]
        if camera is None:
            text = "K is zero: run camera_calibration and give the driver its result"
            return [Finding(name, False, text)]
        return [Finding(name, True, f"{camera.width}x{camera.height}, fx {camera.K[0, 0]:.1f}")]

    def _time(self) -> list[Finding]:
        found = []
        if self.use_sim_time and not self.clock:
            text = "use_sim_time is set and nobody publishes /clock: play the bag with --clock"
            found.append(Finding("clock", False, text))
        elif self.clock and not self.use_sim_time:
            text = "/clock is published: start the nodes with use_sim_time:=true"
            found.append(Finding("clock", False, text))
        if not self.stamps:
            return found
        steps = [b - a for a, b in zip(self.stamps, self.stamps[1:], strict=False)]
        age_s = sorted(self.ages_s)[len(self.ages_s) // 2]
        if not all(self.stamps):
            found.append(Finding("stamps", False, "stamps are zero: set them in the driver"))
        elif any(step <= 0 for step in steps):
            found.append(Finding("stamps", False, "stamps repeat or go back: is a bag looping?"))
        elif abs(age_s) > OLD_S and not self.clock:
            text = f"images are {age_s:.1f} s old: set the clocks of both machines (chrony)"
            found.append(Finding("stamps", False, text))
        else:
            rate = len(steps) / max((self.stamps[-1] - self.stamps[0]) * 1e-9, 1e-9)
            found.append(Finding("stamps", True, f"{rate:.1f} images a second"))
        if not self.frame_id:
            text = "images have no frame_id: set it in the driver, or camera_frame:=..."
            found.append(Finding("frame of the images", False, text))
        return found

    def _transforms(self) -> list[Finding]:
        found = [
            Finding(
                f"transform to {child}",
                False,
                f"published from {' and '.join(sorted(parents))}: a frame has one parent, stop one",
            )
            for child, parents in self.parents.items()
            if len(parents) > 1
        ]
        found += [
            Finding(
                f"transform {parent} -> {child}",
                False,
                "its stamps go to and fro: two nodes publish it, set publish_tf:=false in one",
            )
            for (parent, child), count in self.steps_back.items()
            if count >= STEPS_BACK
        ]
        if not self.base_frame or not self.frame_id:
            return found
        name = f"{self.base_frame} -> {self.frame_id}"
        try:
            self.tree.lookup(self.base_frame, self.frame_id, None)
            found.append(Finding(name, True, "known"))
        except TransformError as error:
            found.append(Finding(name, False, f"{error}; add it to the robot's URDF"))
        return found

    def _kind(self) -> Any:
        types = {p.topic_type for p in self.node.get_publishers_info_by_topic(self.image)}
        if "sensor_msgs/msg/CompressedImage" in types:
            return CompressedImage
        return Image if "sensor_msgs/msg/Image" in types else None

    def _on_image(self, message: Any) -> None:
        stamp_ns = stamp_to_ns(message.header.stamp)
        self.stamps.append(stamp_ns)
        self.ages_s.append((time.time_ns() - stamp_ns) * 1e-9)
        self.frame_id = message.header.frame_id
        try:
            image_to_rgb(message)
        except EncodingError as error:
            self.trouble = str(error)

    def _on_clock(self, _: Clock) -> None:
        self.clock += 1

    def _take(self, message: TFMessage, *, static: bool = False) -> None:
        self.tree.take(message, static=static)
        for t in message.transforms:
            parent, child = t.header.frame_id, t.child_frame_id
            self.parents[child].add(parent)
            if not static:
                stamp_ns = stamp_to_ns(t.header.stamp)
                self.steps_back[parent, child] += stamp_ns < self._stamps[parent, child]
                self._stamps[parent, child] = stamp_ns

    def _spin(self, executor: SingleThreadedExecutor, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            executor.spin_once(timeout_sec=0.1)


def examine(
    image: str, base_frame: str = "", *, use_sim_time: bool = False, seconds: float = 4.0
) -> list[Finding]:
    """Needs a running camera; ROS_DOMAIN_ID as the robot has it."""
    if not image.startswith("/"):
        raise ValueError(f"the image topic must be absolute, got {image}")
    rclpy.init()
    try:
        examination = Examination(image, base_frame, use_sim_time=use_sim_time)
        examination.listen(seconds)
        domain = os.environ.get("ROS_DOMAIN_ID", "0")
        return [Finding("domain", True, domain), *examination.findings()]
    finally:
        rclpy.shutdown()
