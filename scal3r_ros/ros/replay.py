"""replay: a rosbag2 through mapper and tracker in lock-step: nothing dropped, the same every time.

Reads the bag with `rosbags`, runs the parts that the nodes are made of, and writes a bag with all
that they would have published, the trajectory of every image, and the map.
"""

import logging
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from tqdm import tqdm

from scal3r_ros.data.calibration import is_rectified
from scal3r_ros.data.rosbag import COMPRESSED, Bag, BagImages
from scal3r_ros.data.sequence import SequenceError
from scal3r_ros.data.tum import write_trajectory
from scal3r_ros.evaluation.results_folder import claim_folder, clear_results
from scal3r_ros.mapping.map_file import write_ply
from scal3r_ros.mapping.map_folder import save_map
from scal3r_ros.mapping.pipeline import MappedSequence
from scal3r_ros.mapping.submap import intrinsics
from scal3r_ros.mapping.types import Frame, MapUpdate
from scal3r_ros.ros.frame_queue import FrameCounters
from scal3r_ros.ros.frames import RobotFrame
from scal3r_ros.ros.map_odom import GuardedBroadcaster
from scal3r_ros.ros.map_publisher import MapPublisher
from scal3r_ros.ros.odometry_publisher import OdometryPublisher
from scal3r_ros.ros.offline_node import OfflineNode, ParameterError, parameters_of
from scal3r_ros.ros.parameters import MAPPING, ONLINE, value
from scal3r_ros.ros.replay_topics import cast_roles, read_remaps
from scal3r_ros.ros.robot_link import RobotLink
from scal3r_ros.ros.settings import make_mapper
from scal3r_ros.ros.subscriptions import ImageInput, resets_on_jump
from scal3r_ros.tracking.tracker import Tracker
from scal3r_ros.tracking.types import TrackerConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReplayOptions:
    bag: Path
    out: Path
    topic: str = ""  # of the images, where there are several
    remap: tuple[str, ...] = ()  # ROLE:=TOPIC, e.g. odom:=/wheel/odometry
    params_file: Path | None = None
    parameters: tuple[str, ...] = ()  # NAME:=VALUE
    max_images: int = 0
    overwrite: bool = False


@dataclass(eq=False)
class Replay:
    """Everything between two bags."""

    node: Any  # an OfflineNode, in the place of rclpy's
    tracker: Tracker | None
    rectified: bool = False  # what the bag's image topic holds
    result: MappedSequence = field(default_factory=MappedSequence)
    waiting: deque[tuple[Frame, int]] = field(default_factory=deque)  # with their time in the bag

    def __post_init__(self) -> None:
        node = self.node
        self.mapper = make_mapper(node)
        self.counters = FrameCounters()
        self.robot = RobotFrame(node, value(node, "base_frame"))
        self.maps = MapPublisher(node, self.mapper, self.robot)
        self.broadcaster = GuardedBroadcaster(node, guard=False)
        self.link = RobotLink(node, self.mapper, self.robot, self.maps, self.broadcaster)
        self.odometry = OdometryPublisher(node, self.robot, self.broadcaster)
        self.images = ImageInput(
            node,
            self._on_frame,
            self.counters,
            on_jump=self._back_in_time,
            rectified=self.rectified,
        )

    def _back_in_time(self) -> None:
        """As online, but what waits is mapped first; results are those of the last session."""
        self.finish()
        if resets_on_jump(self.node):
            self.mapper.reset()
            self.maps.reset()
            self.link.reset()
            self.result = MappedSequence()
        self.link.clear()
        self.odometry.reset()
        if self.tracker is not None:
            self.tracker.reset()

    def _on_frame(self, frame: Frame, frame_id: str) -> None:
        self.link.see(frame, frame_id)
        self.waiting.append((frame, self.node.now_ns))

    def advance(self, *, last: bool = False) -> None:
        """Maps the images that wait, in order, as far as the bag has told what belongs to them."""
        while self.waiting:
            frame, arrived_ns = self.waiting[0]
            late = (self.node.now_ns - arrived_ns) * 1e-9 >= value(self.node, "tf_timeout")
            complete = self.link.complete(frame, wait=not (late or last))
            if complete is None:
                return
            self.waiting.popleft()
            self._map(complete)

    def _map(self, frame: Frame) -> None:
        frame = replace(frame, index=len(self.result))
        self.result.see(frame)
        if self.tracker is not None:
            self._track(frame, self.tracker)
        self._publish(self.mapper.add_frame(frame))

    def _track(self, frame: Frame, tracker: Tracker) -> None:
        K = intrinsics(frame, self.mapper.submaps)
        pose = None if K is None else tracker.track(frame.image, K, frame.stamp_ns)
        if pose is None:
            return
        self.result.tracked.append(frame.index, pose.T_odom_cam)
        self.link.odometry.take(frame.stamp_ns, pose.T_odom_cam, self.maps.frame_id)
        if not self.maps.withheld:
            self.odometry.publish(pose, self.maps.frame_id)

    def _publish(self, updates: list[MapUpdate]) -> None:
        for update in updates:
            self.maps.publish(update)
            self.link.correct(update.submap)
        if updates and self.tracker is not None:
            self.tracker.set_keyframe(self.mapper.newest_keyframe())
        self.link.publish()

    def finish(self) -> None:
        self.advance(last=True)
        self._publish(self.mapper.flush())


def replay(options: ReplayOptions) -> dict[str, Any]:
    """Runs the bag; returns what was written. Raises SequenceError or ValueError on bad input."""
    remaps = read_remaps(options.remap)
    topic = remaps.pop("/image", "") or remaps.pop("/image/compressed", "") or options.topic
    images = BagImages(options.bag, topic)
    given = parameters_of(options.params_file, "mapping_node", list(options.parameters))
    for name in ONLINE:
        if name in parameters_of(None, "mapping_node", list(options.parameters)):
            raise ParameterError(f"{name} says nothing to a replay, which waits for every image")
    compressed = images.kind == COMPRESSED
    given["image_transport"] = "compressed" if compressed else "raw"
    claim_folder(options.out, options.bag, overwrite=options.overwrite)
    with TemporaryDirectory(dir=options.out, prefix=".replay.") as draft:
        node: Any = OfflineNode(MAPPING, given, Path(draft) / "bag")
        try:
            run = _run(options, images, node, remaps)
        finally:
            node.close()
        clear_results(options.out)
        (Path(draft) / "bag").rename(options.out / "bag")
    return _results(options, run)


def _run(
    options: ReplayOptions, images: BagImages, node: OfflineNode, remaps: dict[str, str]
) -> Replay:
    tracked = value(node, "odom_source") == "tracker"
    with Bag(options.bag) as bag:
        run = Replay(
            node, Tracker(TrackerConfig()) if tracked else None, is_rectified(images.topic)
        )
        _pump(bag, cast_roles(bag, images, node, remaps), images, run, options.max_images)
    if not len(run.result):
        why = "; ".join(node.errors[:3]) or "what they wait for never came"
        raise SequenceError(f"{images.name}: none of its {len(images)} images is used: {why}")
    if not run.images.has_calibration:
        logger.warning("%s: intrinsics are estimated: no camera_info is used", images.name)
    if not run.mapper.submaps:
        raise SequenceError(f"{images.name}: no chunk could be mapped, the camera never moved")
    return run


def _pump(
    bag: Bag, roles: dict[str, list[str]], images: BagImages, run: Replay, max_images: int
) -> None:
    node = run.node
    # what stands still is known from the start, wherever in the bag it was written
    fixed = [c for c in bag.connections if "/tf_static" in roles.get(c.topic, ())]
    moving = [c for c in bag.connections if c.topic in roles and c not in fixed]
    for _, _, data in bag.messages(fixed):
        node.hear("/tf_static", data)
    infos = [c for c in moving if "/camera_info" in roles[c.topic]]
    for _, stamp_ns, data in bag.messages(infos):
        node.now_ns = stamp_ns
        node.hear("/camera_info", data)
        break  # calibration that is written after the first images holds for them too
    with tqdm(total=len(images), unit="image", desc="replaying") as bar:
        for connection, stamp_ns, data in bag.messages(moving):
            node.now_ns = stamp_ns
            for role in roles[connection.topic]:
                node.hear(role, data)
            bar.update(connection.topic == images.topic)
            run.advance()
            if max_images and len(run.result) >= max_images:
                break
    run.finish()


def _results(options: ReplayOptions, run: Replay) -> dict[str, Any]:
    cloud = run.mapper.point_map.cloud()
    write_ply(options.out / "map.ply", cloud)
    trajectory = run.result.trajectory(run.mapper)
    write_trajectory(options.out / "trajectory.txt", trajectory)
    if run.result.tracked:
        write_trajectory(options.out / "odometry.txt", run.result.odometry())
    save_map(options.out / "map", run.mapper, overwrite=options.overwrite)
    length = float(
        np.linalg.norm(np.diff([T[:3, 3] for T in trajectory.values()], axis=0), axis=1).sum()
    )
    counters = run.mapper.counters
    return {
        "images": len(run.result),
        "dropped": run.counters.dropped_invalid,
        "keyframes": counters.keyframes,
        "chunks": counters.chunks,
        "loops": counters.loops,
        "points": len(cloud),
        "metric": run.mapper.metric.metric,
        "length": length,
        "messages": run.node.messages,
    }
