"""What mapping_node says of its map: chunks, corrections, clouds, depth, keyframes, status."""

import time
from typing import TYPE_CHECKING, Any

import numpy as np
from geometry_msgs.msg import PoseStamped, PoseWithCovarianceStamped
from nav_msgs.msg import Odometry, Path
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from scal3r_ros.geometry.camera import transform_points
from scal3r_ros.geometry.sim3 import Sim3, invert_pose
from scal3r_ros.mapping.mapper import Mapper
from scal3r_ros.mapping.point_map import Cloud
from scal3r_ros.mapping.types import MapUpdate, Submap
from scal3r_ros.ros.conversions import (
    camera_to_info,
    cloud_to_message,
    float_to_image,
    header,
    matrix_to_pose,
    matrix_to_transform,
    ns_to_stamp,
    odometry_message,
    rgb_to_image,
    sim3_to_list,
)
from scal3r_ros.ros.frames import RobotFrame
from scal3r_ros.ros.interfaces import Chunk, Corrections, Keyframe, Status
from scal3r_ros.ros.parameters import value

if TYPE_CHECKING:
    from scal3r_ros.ros.mapping_node import MappingNode
    from scal3r_ros.ros.subscriptions import FrameCounters

LATCHED = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
RELIABLE = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
CHUNKS = QoSProfile(depth=20, reliability=ReliabilityPolicy.RELIABLE)
ODOMETRY = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
UNKNOWN = [float("nan")] * 16


class MapPublisher:
    """Clouds and images only when somebody listens; chunks, corrections and status always."""

    def __init__(self, node: Any, mapper: Mapper, robot: RobotFrame) -> None:
        self.node, self.mapper, self.robot = node, mapper, robot
        self.frame_id = ""  # of the images
        self.map_frame = value(node, "map_frame")
        self._chunks = node.create_publisher(Chunk, "chunk", CHUNKS)
        self._corrections = node.create_publisher(Corrections, "corrections", LATCHED)
        self._status = node.create_publisher(Status, "status", LATCHED)
        self._keyframes = node.create_publisher(Keyframe, "keyframe", RELIABLE)
        self._points = node.create_publisher(PointCloud2, "points", RELIABLE)
        self._chunk_points = node.create_publisher(PointCloud2, "chunk/points", RELIABLE)
        self._depth = node.create_publisher(Image, "depth/image", RELIABLE)
        self._depth_info = node.create_publisher(CameraInfo, "depth/camera_info", RELIABLE)
        self._confidence = node.create_publisher(Image, "depth/confidence", RELIABLE)
        self._certainty = node.create_publisher(Image, "depth/edge_certainty", RELIABLE)
        self._path = node.create_publisher(Path, "path", LATCHED)
        self._pose = node.create_publisher(PoseWithCovarianceStamped, "pose", RELIABLE)
        self._odometry = node.create_publisher(Odometry, "odometry", ODOMETRY)
        self._rates: list[tuple[float, int, int]] = []
        self.latency_s = 0.0

    def reset(self) -> None:
        self._corrections.publish(
            Corrections(header=header(0, self.map_frame), map_session=self.mapper.session)
        )

    def publish(self, update: MapUpdate) -> None:
        submap = update.submap
        cloud = self.mapper.point_map.clouds[submap.index]
        self._chunks.publish(self._chunk_message(submap, cloud))
        if update.moved:
            self._publish_corrections(update)
        self._publish_keyframe()
        self._publish_clouds(submap, cloud)
        self._publish_depth(submap)
        self._publish_path(submap)
        now_ns = self.node.get_clock().now().nanoseconds
        self.latency_s = (now_ns - submap.stamps_ns[-1]) / 1e9

    def _chunk_message(self, submap: Submap, cloud: Cloud) -> Chunk:
        poses = [matrix_to_pose(submap.T_map_submap.apply_pose(T)) for T in submap.T_submap_cam]
        numbers = [
            (p.position.x, p.position.y, p.position.z)
            + (p.orientation.x, p.orientation.y, p.orientation.z, p.orientation.w)
            for p in poses
        ]
        edges = [e for e in self.mapper.graph.edges if e.source == submap.index]
        last = edges[0] if edges else None
        return Chunk(
            header=header(submap.stamps_ns[-1], self.map_frame),
            map_session=self.mapper.session,
            chunk_id=submap.index,
            overlap=submap.overlap,
            stamps=[ns_to_stamp(s) for s in submap.stamps_ns],
            poses=np.array(numbers).flatten().tolist(),
            alignment=[last.residual, last.inliers, last.T_target_source.s] if last else [],
            sim3=sim3_to_list(submap.T_map_submap),
            metric=self.mapper.metric.metric,
            points=cloud_to_message(cloud, header(submap.stamps_ns[-1], "")),
            origins=submap.T_submap_cam[submap.overlap :, :3, 3].flatten().tolist(),
        )

    def _publish_corrections(self, update: MapUpdate) -> None:
        moved = (*update.moved, update.submap.index)
        flat = [v for i in moved for v in sim3_to_list(self.mapper.submaps[i].T_map_submap)]
        self._corrections.publish(
            Corrections(
                header=header(update.submap.stamps_ns[-1], self.map_frame),
                map_session=self.mapper.session,
                map_version=update.map_version,
                chunk_ids=list(moved),
                sim3=flat,
                reason=Corrections.LOOP,
            )
        )

    def _publish_keyframe(self) -> None:
        keyframe = self.mapper.newest_keyframe()
        head = header(keyframe.stamp_ns, self.frame_id)
        k = keyframe.K.copy()
        k[:2, 2] -= 0.5
        self._keyframes.publish(
            Keyframe(
                header=head,
                keyframe_id=keyframe.index,
                map_session=self.mapper.session,
                map_version=keyframe.map_version,
                image=rgb_to_image(keyframe.image, head),
                depth=float_to_image(keyframe.depth, head),
                k=k.flatten().tolist(),
                t_map_cam=keyframe.T_map_cam.flatten().tolist(),
                t_odom_cam=UNKNOWN,
                metric=self.mapper.metric.metric,
            )
        )

    def _publish_clouds(self, submap: Submap, cloud: Cloud) -> None:
        """`chunk/points` in the map; `points` of the same submap seen from its newest camera."""
        stamp_ns = submap.stamps_ns[-1]
        if self._chunk_points.get_subscription_count():
            placed = self.mapper.point_map.placed(submap.index)
            self._chunk_points.publish(cloud_to_message(placed, header(stamp_ns, self.map_frame)))
        if self._points.get_subscription_count():
            T_cam_submap = invert_pose(submap.T_submap_cam[-1])
            xyz = transform_points(T_cam_submap, cloud.xyz.astype(np.float64))
            xyz = (xyz * submap.T_map_submap.s).astype(np.float32)
            seen = Cloud(xyz, cloud.rgb, cloud.confidence)
            self._points.publish(cloud_to_message(seen, header(stamp_ns, self.frame_id)))

    def _publish_depth(self, submap: Submap) -> None:
        """Every new keyframe, in map units, with its own K."""
        if not self._depth.get_subscription_count():
            return
        s = submap.T_map_submap.s
        for slot in range(submap.overlap, len(submap.depth)):
            head = header(submap.stamps_ns[slot], self.frame_id)
            depth = submap.depth[slot].astype(np.float32) * s
            self._depth.publish(float_to_image(depth, head))
            self._depth_info.publish(camera_to_info(submap.K[slot], *depth.shape, head))
            confidence = submap.confidence[slot].astype(np.float32)
            self._confidence.publish(float_to_image(confidence, head))
            certainty = submap.edge_certainty[slot].astype(np.float32)
            self._certainty.publish(float_to_image(certainty, head))

    def _publish_path(self, submap: Submap) -> None:
        newest = submap.T_map_submap.apply_pose(submap.T_submap_cam[-1])
        head = header(submap.stamps_ns[-1], self.map_frame)
        T_base_cam = self.robot.T_base_cam(self.frame_id)
        if T_base_cam is not None:
            message = PoseWithCovarianceStamped(header=head)
            message.pose.pose = matrix_to_pose(newest @ invert_pose(T_base_cam))
            message.pose.covariance = _pose_covariance(self.mapper, submap).flatten().tolist()
            self._pose.publish(message)
        if not self._path.get_subscription_count():
            return
        poses = list(self.mapper.keyframe_poses().values())
        step = max(1, len(poses) // value(self.node, "path_max_poses"))
        path = Path(header=head)
        path.poses = [PoseStamped(header=head, pose=matrix_to_pose(T)) for T in poses[::step]]
        self._path.publish(path)

    def publish_odometry(self, submap: Submap, broadcaster: Any) -> None:
        """Chunk-rate odometry for robots without a tracker: the uncorrected chain."""
        T_base_cam = self.robot.T_base_cam(self.frame_id)
        if T_base_cam is None:
            return
        frames = value(self.node, "odom_frame"), self.robot.child(self.frame_id)
        covariance = _pose_covariance(self.mapper, submap)
        for slot in range(submap.overlap, len(submap.stamps_ns)):
            T_cam = submap.T_map_submap.apply_pose(submap.T_submap_cam[slot])
            T, stamp_ns = T_cam @ invert_pose(T_base_cam), submap.stamps_ns[slot]
            self._odometry.publish(odometry_message(T, stamp_ns, *frames, covariance))
            if value(self.node, "publish_tf"):
                broadcaster.sendTransform(matrix_to_transform(T, stamp_ns, *frames))

    def publish_status(self, node: "MappingNode") -> None:
        counters = self.mapper.counters
        seconds = counters.total_seconds
        newest = self.mapper.submaps[-1].T_map_submap if self.mapper.submaps else Sim3.identity()
        used, total = node.gpu_memory()
        input_rate, kept_rate = self._rate(node.counters)
        self._status.publish(
            Status(
                header=header(node.get_clock().now().nanoseconds, self.map_frame),
                state=node.state,
                map_session=self.mapper.session,
                map_version=self.mapper.map_version,
                frames_received=node.counters.received,
                frames_used=counters.keyframes,
                frames_dropped_overload=node.counters.dropped_overload,
                frames_dropped_invalid=node.counters.dropped_invalid,
                chunks=counters.chunks,
                loops=counters.loops,
                loops_refused=counters.loops_refused,
                pending_frames=node.pending,
                input_rate=input_rate,
                effective_rate=kept_rate,
                inference_time_last=seconds[-1] if seconds else 0.0,
                inference_time_mean=float(np.mean(seconds)) if seconds else 0.0,
                latency=self.latency_s,
                metric=self.mapper.metric.metric,
                scale=newest.s,
                scale_spread=float(np.nan_to_num(self.mapper.metric.estimator.spread, posinf=0.0)),
                intrinsics_source=(
                    Status.INTRINSICS_CAMERA_INFO
                    if node.images.has_calibration
                    else Status.INTRINSICS_ESTIMATED
                ),
                chunk_size_effective=self.mapper.chunker.config.size,
                gpu_memory_used=used,
                gpu_memory_total=total,
                device=node.device,
                message=node.message,
            )
        )

    def _rate(self, counters: "FrameCounters") -> tuple[float, float]:
        """Images per second over the last five seconds: that arrived, that were not thinned."""
        now = time.monotonic()
        kept = counters.received - counters.dropped_overload - counters.dropped_invalid
        recent = [row for row in self._rates if now - row[0] < 5.0]
        self._rates = [*recent, (now, counters.received, kept)]
        began, received, kept_then = self._rates[0]
        if now <= began:
            return 0.0, 0.0
        return (counters.received - received) / (now - began), (kept - kept_then) / (now - began)


def _pose_covariance(mapper: Mapper, submap: Submap) -> np.ndarray:
    """(translation, rotation) of the submap in the map, from the graph's marginals."""
    marginal = mapper.graph.covariance(submap.index)
    order = [3, 4, 5, 0, 1, 2]
    covariance = marginal[np.ix_(order, order)].copy()
    rotation = np.zeros((6, 6))
    rotation[:3, :3] = submap.T_map_submap.R * submap.T_map_submap.s
    rotation[3:, 3:] = submap.T_map_submap.R
    return rotation @ covariance @ rotation.T
