"""Between the mapper and a robot: what it measures beside images, and where the map puts it.

mapping_node and replay run the same of this.
"""

from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from scal3r_ros.geometry.sim3 import invert_pose
from scal3r_ros.mapping.mapper import Mapper
from scal3r_ros.mapping.odometry_chain import OdometryChain
from scal3r_ros.mapping.types import Frame, Submap
from scal3r_ros.ros.frames import RobotFrame
from scal3r_ros.ros.map_odom import GuardedBroadcaster, MapToOdom
from scal3r_ros.ros.map_publisher import MapPublisher
from scal3r_ros.ros.odometry_source import OdometrySource
from scal3r_ros.ros.parameters import AnyNode, value
from scal3r_ros.ros.sensors import ScaleSensors


class RobotLink:
    """Odometry and sensors for every frame; map -> odom back."""

    def __init__(
        self,
        node: AnyNode,
        mapper: Mapper,
        robot: RobotFrame,
        maps: MapPublisher,
        broadcaster: GuardedBroadcaster,
    ) -> None:
        self.node, self.mapper, self.robot, self.maps = node, mapper, robot, maps
        self.broadcaster = broadcaster
        self.kind = value(node, "odom_source")
        self.odometry = OdometrySource(node, self.kind, value(node, "odom_frame"), robot)
        self.sensors = ScaleSensors(node, robot, mapper)
        self.map_odom = MapToOdom(node, broadcaster)
        self.chain = OdometryChain()  # where nobody else gives odometry
        self.without_odometry = 0  # frames
        self._warn = cache(node.get_logger().warning)  # each text
        self._start: tuple[Float[ndarray, "4 4"], float] | None = None  # T_map_base of the next
        # piece, and the map's unit when it was told

    def close(self) -> None:
        self.odometry.close()
        self.sensors.close()

    def reset(self) -> None:
        """Another session begins."""
        self.map_odom.reset()
        self.chain = OdometryChain()

    def clear(self) -> None:
        """Time went back: what was heard of later times is nothing to go by."""
        self.odometry.clear()
        self.sensors.clear()

    def begin_at(self, T_map_base: Float[ndarray, "4 4"]) -> None:
        """Where the robot is when the next image comes; the camera's place on it may come later."""
        self._start = T_map_base, self.mapper.unit

    def see(self, frame: Frame, frame_id: str) -> None:
        """Tells of an image that arrived."""
        self.maps.frame_id = frame_id
        self.sensors.see(frame, frame_id)

    def complete(self, frame: Frame, *, wait: bool) -> Frame | None:
        """The frame with the robot's odometry and its sensors; None while they may still come and
        `wait` is set."""
        T_base_cam = self.robot.T_base_cam(self.maps.frame_id)
        if T_base_cam is None and wait:
            return None
        if value(self.node, "base_frame") and T_base_cam is not None and not self.mapper.submaps:
            self.mapper.R_map_first = T_base_cam[:3, :3]  # the map's axes are those of the robot
        if self.kind in ("topic", "tf"):
            T_odom_cam = self.odometry.T_odom_cam(frame.stamp_ns, self.maps.frame_id)
            if T_odom_cam is None and wait:
                return None
            if T_odom_cam is None:
                self.without_odometry += 1
                missing = self.odometry.missing(self.maps.frame_id)
                self._warn(f"images are mapped without odometry: it needs {missing}")
            frame = frame.with_odometry(T_odom_cam)
        if self._start is not None and T_base_cam is not None:
            self._begin(frame.stamp_ns, T_base_cam, *self._start)
        return self.sensors.complete(frame, wait=wait)

    def _begin(
        self,
        stamp_ns: int,
        T_base_cam: Float[ndarray, "4 4"],
        T_map_base: Float[ndarray, "4 4"],
        unit: float,
    ) -> None:
        self._start = None
        T_map_base[:3, 3] *= self.mapper.unit / unit
        self.mapper.start = T_map_base @ T_base_cam
        T_odom_cam = self.odometry.T_odom_cam(stamp_ns, self.maps.frame_id)
        if T_odom_cam is not None and not self.maps.withheld:
            self.map_odom.set(self.mapper.start @ invert_pose(T_odom_cam))

    def correct(self, submap: Submap) -> None:
        """map -> odom at the newest keyframe whose odometry is known."""
        if self.maps.withheld:
            return
        if self.kind == "none":
            self.maps.publish_odometry(submap, self.chain.extend(submap), self.broadcaster)
            self.map_odom.set(self.chain.T_map_odom)
            return
        newest: Any = zip(submap.stamps_ns, submap.T_submap_cam, strict=True)
        for stamp_ns, T_submap_cam in reversed(list(newest)):
            T_odom_cam = self.odometry.T_odom_cam(stamp_ns, self.maps.frame_id)
            if T_odom_cam is not None:
                T_map_cam = submap.T_map_submap.apply_pose(T_submap_cam)
                self.map_odom.set(T_map_cam @ invert_pose(T_odom_cam))
                return
        if self.kind == "tracker" and not self.odometry.heard:
            self.map_odom.set(np.eye(4))  # it begins at this submap's keyframe, in the map

    def publish(self) -> None:
        """map -> odom, once it is known where the robot is in the map."""
        if self.map_odom.known and not self.maps.withheld:
            self.map_odom.publish()
