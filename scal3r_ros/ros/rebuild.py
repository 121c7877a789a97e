"""From a recorded bag to the map, the trajectory and the pictures: outputs alone are enough."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from rosbags.rosbag2 import Reader

from scal3r_ros.data.sequence import open_sequence
from scal3r_ros.data.tum import write_trajectory
from scal3r_ros.evaluation.filters import draw_filtered
from scal3r_ros.evaluation.products import depth_rows
from scal3r_ros.evaluation.render import render_depth, render_map
from scal3r_ros.geometry.camera import scale_intrinsics, transform_points, unproject
from scal3r_ros.mapping.map_file import write_ply
from scal3r_ros.mapping.point_map import Cloud, join
from scal3r_ros.mapping.submap import thumbnail
from scal3r_ros.mapping.trajectory import camera_trajectory
from scal3r_ros.mapping.types import Frame
from scal3r_ros.ros.chunk_map import ChunkMap
from scal3r_ros.ros.conversions import (
    image_to_float,
    message_to_cloud,
    pose_to_matrix,
    stamp_to_ns,
)
from scal3r_ros.ros.recorder import typestore
from scal3r_ros.ros.topics_picture import render_topics


@dataclass(eq=False)
class Recording:
    """What a bag of the nodes' outputs holds."""

    map: ChunkMap = field(default_factory=ChunkMap)
    odometry: dict[int, Float[ndarray, "4 4"]] = field(default_factory=dict)  # stamp -> T_odom_cam
    depth: dict[int, Float[ndarray, "h w"]] = field(default_factory=dict)  # stamp -> map units
    certainty: dict[int, Float[ndarray, "h w"]] = field(default_factory=dict)
    points: tuple[int, Cloud] | None = None  # the last observation cloud, with its stamp
    grid: Any = None  # the last OccupancyGrid
    status: Any = None  # the last of mapping_node
    odometry_status: Any = None
    peak_gpu_memory: int = 0  # bytes, the most that any status told
    topics: dict[str, int] = field(default_factory=dict)  # messages


def read_recording(bag: Path) -> Recording:
    recording, store = Recording(), typestore()
    with Reader(bag) as reader:
        recording.topics = {c.topic: c.msgcount for c in reader.connections}
        for connection, _, data in reader.messages():
            topic = connection.topic.rpartition("/")[2]
            message = store.deserialize_cdr(data, connection.msgtype)
            _take(recording, topic, connection.topic, message)
    return recording


def _take(recording: Recording, topic: str, full: str, message: Any) -> None:
    if topic == "chunk":
        recording.map.add_chunk(message)
    elif topic == "corrections":
        recording.map.correct(message)
    elif topic == "odometry":
        stamp = stamp_to_ns(message.header.stamp)
        recording.odometry[stamp] = pose_to_matrix(message.pose.pose)
    elif full.endswith("depth/image"):
        recording.depth[stamp_to_ns(message.header.stamp)] = image_to_float(message)
    elif topic == "edge_certainty":
        recording.certainty[stamp_to_ns(message.header.stamp)] = image_to_float(message)
    elif full.endswith("/points") and not full.endswith("chunk/points"):
        recording.points = stamp_to_ns(message.header.stamp), message_to_cloud(message)
    elif topic == "map":
        recording.grid = message
    elif topic == "status":
        recording.status = message
        recording.peak_gpu_memory = max(recording.peak_gpu_memory, int(message.gpu_memory_used))
    elif topic == "odometry_status":
        recording.odometry_status = message


def trajectory(recording: Recording, stamps_ns: list[int]) -> dict[int, Float[ndarray, "4 4"]]:
    """T_map_cam of every image, by stamp."""
    index = {stamp: i for i, stamp in enumerate(stamps_ns)}
    poses = camera_trajectory(
        {index[s]: T for s, T in recording.map.keyframe_poses().items() if s in index},
        {index[s]: T for s, T in recording.odometry.items() if s in index},
        range(len(stamps_ns)),
    )
    return {stamps_ns[i]: T for i, T in poses.items()}


def every_point(
    frame: Frame, depth: Float[ndarray, "h w"], T_map_cam: Float[ndarray, "4 4"]
) -> Cloud:
    """What a depth image of a calibrated camera shows before any filter: every other pixel of every
    other row: about as many as the map has."""
    assert frame.K is not None
    K = scale_intrinsics(frame.K, frame.image.shape[:2], depth.shape)
    seen = depth[::2, ::2] > 0
    xyz = unproject(depth.astype(np.float64), K)[::2, ::2][seen]
    colours = thumbnail(frame.image, *depth.shape)[::2, ::2][seen]
    xyz = transform_points(T_map_cam, xyz).astype(np.float32)
    return Cloud(xyz, colours, np.ones(len(xyz), np.float32))


def write_results(recording: Recording, sequence: Path, out: Path, images: int = 0) -> int:
    """map.ply, trajectory.txt, keyframes.txt, odometry.txt, map.png, depth.png, filters.png,
    topics.png; the number of points."""
    cloud = recording.map.cloud()
    write_ply(out / "map.ply", cloud)
    frames = {}
    wanted = depth_rows(sorted(recording.depth))
    last = recording.points[0] if recording.points else None
    stamps, seen = [], []
    keyframes = recording.map.keyframe_poses()
    for frame in open_sequence(sequence):
        if images and len(stamps) >= images:
            break
        stamps.append(frame.stamp_ns)
        depth, place = recording.depth.get(frame.stamp_ns), keyframes.get(frame.stamp_ns)
        if frame.K is not None and depth is not None and place is not None:
            seen.append(every_point(frame, depth, place))
        if frame.stamp_ns in wanted or frame.stamp_ns == last:
            frames[frame.stamp_ns] = frame.image
    write_trajectory(out / "trajectory.txt", trajectory(recording, stamps))
    write_trajectory(out / "keyframes.txt", keyframes)
    if recording.odometry:
        write_trajectory(out / "odometry.txt", recording.odometry)
    if len(cloud):
        path = np.stack(list(keyframes.values()))
        render_map(out / "map.png", cloud, path)
        if any(map(len, seen)):
            draw_filtered(out / "filters.png", join(seen), cloud, path)
        shown = [s for s in wanted if s in frames and s in recording.certainty]
        if shown:
            render_depth(
                out / "depth.png",
                [thumbnail(frames[s], *recording.depth[s].shape) for s in shown],
                [recording.depth[s].astype(np.float64) for s in shown],
                [recording.certainty[s].astype(np.float64) for s in shown],
            )
    if len(cloud) and last in frames and last in recording.depth and recording.points:
        render_topics(
            out / "topics.png",
            image=frames[last],
            depth=recording.depth[last].astype(np.float64),
            points=recording.points[1],
            map_cloud=cloud,
            keyframes=np.stack(list(keyframes.values())),
            odometry=np.array([T[:3, 3] for T in recording.odometry.values()]).reshape(-1, 3),
            grid=recording.grid,
        )
    return len(cloud)
