"""A whole sequence through mapper and tracker, image by image, as the nodes do it online."""

import logging
import time
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from jaxtyping import Float, UInt8
from numpy import ndarray

from scal3r_ros.geometry.keyframe import Keyframe
from scal3r_ros.mapping.mapper import Mapper
from scal3r_ros.mapping.submap import intrinsics
from scal3r_ros.mapping.trajectory import PoseLog, camera_trajectory
from scal3r_ros.mapping.types import Frame, MapUpdate

logger = logging.getLogger(__name__)


@runtime_checkable
class TrackedCamera(Protocol):
    T_odom_cam: Float[ndarray, "4 4"]


@runtime_checkable
class CameraTracker(Protocol):
    """What the pipeline needs of a tracker (tracking.tracker.Tracker is one)."""

    def set_keyframe(self, keyframe: Keyframe) -> None: ...

    def track(
        self, image: UInt8[ndarray, "h w 3"], K: Float[ndarray, "3 3"], stamp_ns: int
    ) -> TrackedCamera | None: ...


@dataclass(eq=False)
class MappedSequence:
    """What a run leaves beside the mapper itself."""

    tracked: PoseLog = field(default_factory=PoseLog)  # T_odom_cam
    seconds: float = 0.0
    track_seconds: float = 0.0  # in all

    def __post_init__(self) -> None:
        self._images = array("q")  # index and stamp [ns] of each

    def __len__(self) -> int:
        return len(self._images) // 2

    def see(self, frame: Frame) -> None:
        self._images.extend((frame.index, frame.stamp_ns))

    @property
    def stamps_ns(self) -> dict[int, int]:
        """Of every image, by its index."""
        return dict(zip(self._images[::2], self._images[1::2], strict=True))

    def trajectory(self, mapper: Mapper) -> dict[int, Float[ndarray, "4 4"]]:
        """T_map_cam of every image, by stamp [ns]."""
        stamps_ns = self.stamps_ns
        poses = camera_trajectory(mapper.keyframe_poses(), self.tracked, stamps_ns)
        return {stamps_ns[index]: T for index, T in poses.items()}

    def odometry(self) -> dict[int, Float[ndarray, "4 4"]]:
        """T_odom_cam of every tracked image, by stamp [ns]."""
        stamps_ns = self.stamps_ns
        return {stamps_ns[index]: T for index, T in self.tracked.items()}


def map_sequence(
    frames: Iterable[Frame],
    mapper: Mapper,
    tracker: CameraTracker | None,
    on_frame: Callable[[Frame, list[MapUpdate]], None] | None = None,
) -> MappedSequence:
    """Every image goes to the tracker and to the mapper; the last, shorter chunk is mapped too."""
    result = MappedSequence()
    began = time.perf_counter()
    for frame in frames:
        result.see(frame)
        if tracker is not None:
            _track(frame, mapper, tracker, result)
        updates = mapper.add_frame(frame)
        if updates and tracker is not None:
            tracker.set_keyframe(mapper.newest_keyframe())
        if on_frame is not None:
            on_frame(frame, updates)
    mapper.flush()
    result.seconds = time.perf_counter() - began
    return result


def _track(frame: Frame, mapper: Mapper, tracker: CameraTracker, result: MappedSequence) -> None:
    began = time.perf_counter()
    K = intrinsics(frame, mapper.submaps)
    pose = None if K is None else tracker.track(frame.image, K, frame.stamp_ns)
    if pose is not None:
        result.tracked.append(frame.index, pose.T_odom_cam)
    result.track_seconds += time.perf_counter() - began
