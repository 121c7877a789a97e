"""What mapping_node says of its map: chunks, corrections, clouds, depth, keyframes."""

from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped, PoseWithCovarianceStamped
from jaxtyping import Float, Int
from nav_msgs.msg import Odometry, Path
from numpy import ndarray
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2

from scal3r_ros.geometry.camera import transform_points
from scal3r_ros.geometry.sim3 import invert_pose
from scal3r_ros.geometry.voxels import strongest_per_voxel
from scal3r_ros.mapping.camera_covariance import camera_covariance
from scal3r_ros.mapping.mapper import Mapper
from scal3r_ros.mapping.point_map import Cloud, newest_view, submap_cloud
from scal3r_ros.mapping.types import MapUpdate, Submap
from scal3r_ros.ros.conversions import (
    K_to_numbers,
    camera_to_info,
    cloud_to_message,
    depth_to_jpeg,
    float_to_image,
    header,
    matrix_to_numbers,
    matrix_to_pose,
    ns_to_stamp,
    odometry_message,
    rgb_to_image,
    sim3_to_list,
)
from scal3r_ros.ros.frames import RobotFrame
from scal3r_ros.ros.interfaces import Chunk, Corrections, Keyframe, ScaleEstimate
from scal3r_ros.ros.map_odom import GuardedBroadcaster
from scal3r_ros.ros.parameters import value

LATCHED = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
RELIABLE = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
# a map that is loaded is published at once: nothing of it may be overwritten
CHUNKS = QoSProfile(history=HistoryPolicy.KEEP_ALL, reliability=ReliabilityPolicy.RELIABLE)
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
        self._keyframes = node.create_publisher(Keyframe, "keyframe", LATCHED)
        self._scale = node.create_publisher(ScaleEstimate, "scale_estimate", RELIABLE)
        self._points = node.create_publisher(PointCloud2, "points", RELIABLE)
        self._chunk_points = node.create_publisher(PointCloud2, "chunk/points", RELIABLE)
        self._depth = node.create_publisher(Image, "depth/image", RELIABLE)
        self._depth_info = node.create_publisher(CameraInfo, "depth/camera_info", RELIABLE)
        self._confidence = node.create_publisher(Image, "depth/confidence", RELIABLE)
        self._certainty = node.create_publisher(Image, "depth/edge_certainty", RELIABLE)
        preview = "depth/preview/compressed"
        self._preview = node.create_publisher(CompressedImage, preview, RELIABLE)
        self._path = node.create_publisher(Path, "path", LATCHED)
        self._pose = node.create_publisher(PoseWithCovarianceStamped, "pose", RELIABLE)
        alone = value(node, "odom_source") == "none"
        self._odometry = node.create_publisher(Odometry, "odometry", ODOMETRY) if alone else None
        self.began = False  # there are chunks that somebody may have missed
        self.latency_s = 0.0

    @property
    def withheld(self) -> bool:
        """Whether poses and points wait for metres."""
        return bool(value(self.node, "require_metric")) and not self.mapper.metric.metric

    def close(self) -> None:
        for publisher in [p for p in vars(self).values() if isinstance(p, Publisher)]:
            self.node.destroy_publisher(publisher)

    def reset(self) -> None:
        self.began = False
        self._corrections.publish(
            Corrections(header=header(0, self.map_frame), map_session=self.mapper.session)
        )

    def publish(self, update: MapUpdate) -> None:
        submap = update.submap
        cloud = self.mapper.point_map.clouds[submap.index]
        self._chunks.publish(self._chunk_message(submap, cloud))
        self.began = True
        if update.moved:
            rescaled = update.rescaled != 1.0
            reason = Corrections.SCALE if rescaled else Corrections.LOOP
            self.publish_corrections(reason)
        self._publish_scale(submap)
        self._publish_keyframe()
        self._publish_depth(submap)
        self._publish_path(submap)
        if not self.withheld:
            self._publish_clouds(submap, cloud)
        now_ns = self.node.get_clock().now().nanoseconds
        self.latency_s = (now_ns - submap.stamps_ns[-1]) / 1e9

    def _publish_scale(self, submap: Submap) -> None:
        metric = self.mapper.metric
        said = metric.said_of(submap)
        if said is None:
            return
        self._scale.publish(
            ScaleEstimate(
                header=header(submap.stamps_ns[-1], self.map_frame),
                source=metric.estimator.config.source,
                observed=said[0],
                estimate=said[1],
                spread=metric.estimator.deviation,
                locked=metric.metric,
            )
        )

    def publish_whereabouts(self, submap: Submap) -> None:
        """Of a camera that is localised in a map which does not grow."""
        self._publish_keyframe()
        self._publish_depth(submap)
        self._publish_path(submap)
        if not self.withheld:
            self._publish_clouds(submap, submap_cloud(submap, self.mapper.config.points))

    def publish_everything(self) -> None:
        """All chunks again, of a map that was loaded."""
        for submap in self.mapper.submaps:
            cloud = self.mapper.point_map.clouds[submap.index]
            self._chunks.publish(self._chunk_message(submap, cloud))
        self.began = True
        self.publish_corrections(Corrections.LOAD)

    def _chunk_message(self, submap: Submap, cloud: Cloud) -> Chunk:
        poses = submap.T_map_submap.apply_pose(submap.T_submap_cam)
        edges = [e for e in self.mapper.graph.edges if e.source == submap.index]
        last = edges[0] if edges else None
        return Chunk(
            header=header(submap.stamps_ns[-1], self.map_frame),
            map_session=self.mapper.session,
            chunk_id=submap.index,
            overlap=submap.overlap,
            stamps=[ns_to_stamp(s) for s in submap.stamps_ns],
            poses=[n for T in poses for n in matrix_to_numbers(T)],
            alignment=[last.residual, last.inliers, last.T_target_source.s] if last else [],
            sim3=sim3_to_list(submap.T_map_submap),
            metric=self.mapper.metric.metric,
            points=cloud_to_message(cloud, header(submap.stamps_ns[-1], "")),
        )

    def publish_corrections(self, reason: int) -> None:
        """Where every submap is now: who has missed one of these has missed nothing."""
        submaps = self.mapper.submaps
        flat = [v for submap in submaps for v in sim3_to_list(submap.T_map_submap)]
        stamp_ns = submaps[-1].stamps_ns[-1] if submaps else 0
        self._corrections.publish(
            Corrections(
                header=header(stamp_ns, self.map_frame),
                map_session=self.mapper.session,
                map_version=self.mapper.map_version,
                chunk_ids=[submap.index for submap in submaps],
                sim3=flat,
                reason=reason,
            )
        )

    def _publish_keyframe(self) -> None:
        keyframe = self.mapper.newest_keyframe()
        head = header(keyframe.stamp_ns, self.frame_id)
        self._keyframes.publish(
            Keyframe(
                header=head,
                keyframe_id=keyframe.index,
                map_session=self.mapper.session,
                map_version=self.mapper.map_version,
                image=rgb_to_image(keyframe.image, head),
                depth=float_to_image(keyframe.depth, head),
                k=K_to_numbers(keyframe.K),
                t_map_cam=keyframe.T_map_cam.flatten().tolist(),
                t_odom_cam=UNKNOWN,
                unit=keyframe.unit,
                metric=self.mapper.metric.metric,
            )
        )

    def _publish_clouds(self, submap: Submap, cloud: Cloud) -> None:
        """`points` as the newest camera sees them; `chunk/points`, all that is new, in the map."""
        stamp_ns, T_map_submap = submap.stamps_ns[-1], submap.T_map_submap
        if value(self.node, "publish_points") and self._points.get_subscription_count():
            view = newest_view(submap, self.mapper.config.points)
            seen, keep = self._seen(submap, view)
            kept = Cloud(seen[keep].astype(np.float32), view.rgb[keep], view.confidence[keep])
            self._points.publish(cloud_to_message(kept, header(stamp_ns, self.frame_id)))
        shown = value(self.node, "publish_chunk_points")
        if shown and self._chunk_points.get_subscription_count():
            _, keep = self._seen(submap, cloud)
            xyz = T_map_submap.apply(cloud.xyz[keep].astype(np.float64)).astype(np.float32)
            placed = Cloud(xyz, cloud.rgb[keep], cloud.confidence[keep])
            self._chunk_points.publish(cloud_to_message(placed, header(stamp_ns, self.map_frame)))

    def _seen(
        self, submap: Submap, cloud: Cloud
    ) -> tuple[Float[ndarray, "n 3"], Int[ndarray, " m"]]:
        """In the newest camera, map units, and the rows that the parameters let through."""
        T_cam_submap = invert_pose(submap.T_submap_cam[-1])
        xyz = transform_points(T_cam_submap, cloud.xyz.astype(np.float64)) * submap.T_map_submap.s
        return xyz, self._wanted(xyz, cloud)

    def _wanted(self, xyz_cam: Float[ndarray, "n 3"], cloud: Cloud) -> Int[ndarray, " m"]:
        """Rows of the points that the parameters let through."""
        far = np.linalg.norm(xyz_cam, axis=1)
        limit = value(self.node, "max_depth") or np.inf
        sure = 1 - 1 / np.maximum(cloud.confidence, 1) >= value(self.node, "min_confidence")
        keep = np.flatnonzero((far >= value(self.node, "min_depth")) & (far <= limit) & sure)
        if (size := value(self.node, "voxel_size")) > 0:
            keep = keep[strongest_per_voxel(xyz_cam[keep], size, cloud.confidence[keep])]
        keep = keep[:: value(self.node, "point_stride")]
        return keep[:: max(1, -(-len(keep) // value(self.node, "max_points_per_msg")))]

    def _publish_depth(self, submap: Submap) -> None:
        """Every new keyframe, in map units, with its own K; a picture of the newest."""
        if not value(self.node, "publish_depth"):
            return
        if self._preview.get_subscription_count():
            head = header(submap.stamps_ns[-1], self.frame_id)
            self._preview.publish(depth_to_jpeg(submap.depth[-1].astype(np.float32), head))
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
        newest = submap.end
        head = header(submap.stamps_ns[-1], self.map_frame)
        T_base_cam = self.robot.T_base_cam(self.frame_id)
        if T_base_cam is not None and not self.withheld:
            message = PoseWithCovarianceStamped(header=head)
            message.pose.pose = matrix_to_pose(newest @ invert_pose(T_base_cam))
            message.pose.covariance = self._covariance(submap).flatten().tolist()
            self._pose.publish(message)
        if not self._path.get_subscription_count():
            return
        poses = list(self.mapper.keyframe_poses().values())
        step = max(1, len(poses) // value(self.node, "path_max_poses"))
        path = Path(header=head)
        path.poses = [PoseStamped(header=head, pose=matrix_to_pose(T)) for T in poses[::step]]
        self._path.publish(path)

    def _covariance(self, submap: Submap) -> Float[ndarray, "6 6"]:
        """Of the map's graph, and never surer than the parameter says; of a camera that is only
        localised nothing better is known than that."""
        floor = np.diag([value(self.node, "min_position_stddev") ** 2] * 3 + [0.0] * 3)
        known = submap.index < len(self.mapper.submaps)
        marginal = self.mapper.graph.covariance(submap.index) if known else np.zeros((7, 7))
        return floor + camera_covariance(submap, marginal)

    def publish_odometry(
        self,
        submap: Submap,
        T_odom_cam: list[tuple[int, Float[ndarray, "4 4"]]],
        broadcaster: GuardedBroadcaster,
    ) -> None:
        """Chunk-rate odometry for robots without a tracker, with stamps [ns]."""
        assert self._odometry is not None  # `odom_source: none`
        T_base_cam = self.robot.T_base_cam(self.frame_id)
        if T_base_cam is None:
            return
        frames = value(self.node, "odom_frame"), self.robot.child(self.frame_id)
        covariance = self._covariance(submap)
        for stamp_ns, T_cam in T_odom_cam:
            T = T_cam @ invert_pose(T_base_cam)
            self._odometry.publish(odometry_message(T, stamp_ns, *frames, covariance))
            broadcaster.send(T, stamp_ns, *frames)
