"""What is generated from the code: config/mapping.yaml and docs/interface.md.

python -m scal3r_ros.ros.documents yaml > config/mapping.yaml
python -m scal3r_ros.ros.documents interface > docs/interface.md
"""

import sys
from pathlib import Path
from typing import Any

from scal3r_ros.ros.parameters import NODES, Parameter
from scal3r_ros.ros.recorder import message_folder

TOPICS = {
    "mapping_node": (
        ("sub", "image", "sensor_msgs/Image", "reliability as the publisher's", "or `image/compressed`"),
        ("sub", "camera_info", "sensor_msgs/CameraInfo", "sensor data", "the newest that fits counts"),
        ("sub", "mask_topic", "sensor_msgs/Image", "any", "mono8, 0 where the robot itself is seen; latched or a stream, the newest counts"),
        ("sub", "odometry", "nav_msgs/Odometry", "reliable 50", "`odom_source: tracker`"),
        ("sub", "odom", "nav_msgs/Odometry", "sensor data", "`odom_source: topic`"),
        ("sub", "sensor_depth/image", "sensor_msgs/Image", "reliability as the publisher's", "16UC1 mm or 32FC1 m, registered to the image; `scale_source: depth`"),
        ("sub", "right/image", "sensor_msgs/Image", "reliability as the publisher's", "rectified; `scale_source: stereo`"),
        ("sub", "right/camera_info", "sensor_msgs/CameraInfo", "sensor data", "baseline from P[3]"),
        ("sub", "imu", "sensor_msgs/Imu", "sensor data", "`scale_source: imu` or `map_orientation: imu`"),
        ("sub", "initialpose", "geometry_msgs/PoseWithCovarianceStamped", "reliable 1", "where the robot is in the map (RViz: 2D Pose Estimate); believed until the map is recognised"),
        ("sub", "/tf, /tf_static", "tf2_msgs/TFMessage", "as tf2", "camera on the robot; `odom_source: tf`"),
        ("pub", "chunk", "scal3r_ros/Chunk", "reliable, all kept", "always; for map_node and recorders"),
        ("pub", "corrections", "scal3r_ros/Corrections", "reliable, latched", "places of all chunks after loops, rescaling, loading"),
        ("pub", "keyframe", "scal3r_ros/Keyframe", "reliable, latched", "for odometry_node"),
        ("pub", "status", "scal3r_ros/Status", "reliable, latched", "2 Hz, and when the state changes"),
        ("pub", "scale_estimate", "scal3r_ros/ScaleEstimate", "reliable 5", "what the scale source saw of a submap; with `scale_source`"),
        ("pub", "pose", "geometry_msgs/PoseWithCovarianceStamped", "reliable 5", "newest base in `map`"),
        ("pub", "path", "nav_msgs/Path", "reliable, latched", "keyframes, at most `path_max_poses`"),
        ("pub", "points", "sensor_msgs/PointCloud2", "reliable 5", "x y z rgb confidence in the **camera's optical frame**, stamp of its image: for nav2, STVL, octomap"),
        ("pub", "chunk/points", "sensor_msgs/PointCloud2", "reliable 5", "new points of a chunk in `map`"),
        ("pub", "depth/image", "sensor_msgs/Image", "reliable 5", "32FC1, NaN unknown (REP 118); map units"),
        ("pub", "depth/camera_info", "sensor_msgs/CameraInfo", "reliable 5", "same stamp and size as the depth"),
        ("pub", "depth/confidence", "sensor_msgs/Image", "reliable 5", "32FC1, at least 1"),
        ("pub", "depth/edge_certainty", "sensor_msgs/Image", "reliable 5", "32FC1, 0 to 1, of the gate"),
        ("pub", "depth/preview/compressed", "sensor_msgs/CompressedImage", "reliable 5", "JPEG of the newest depth in colours, for thin networks"),
        ("pub", "odometry", "nav_msgs/Odometry", "reliable 50", "only `odom_source: none`: every keyframe, a chunk at a time"),
        ("pub", "/diagnostics", "diagnostic_msgs/DiagnosticArray", "reliable 10", "every `diagnostic_updater.period`, 1 s"),
        ("pub", "/tf", "tf2_msgs/TFMessage", "reliable 100", "map -> odom; with `odom_source: none` odom -> base too"),
    ),
    "odometry_node": (
        ("sub", "image, camera_info", "as mapping_node", "", ""),
        ("sub", "keyframe", "scal3r_ros/Keyframe", "reliable, latched", ""),
        ("sub", "imu", "sensor_msgs/Imu", "sensor data", "`use_imu`; its frame by /tf_static"),
        ("sub", "/tf, /tf_static", "tf2_msgs/TFMessage", "as tf2", "camera on the robot; whether somebody else publishes odom -> base"),
        ("pub", "odometry", "nav_msgs/Odometry", "reliable 50", "one for every image, stamp of the image; covariance grows while it coasts"),
        ("pub", "odometry_status", "scal3r_ros/Status", "reliable, latched", "2 Hz"),
        ("pub", "/diagnostics", "diagnostic_msgs/DiagnosticArray", "reliable 10", "every `diagnostic_updater.period`, 1 s"),
        ("pub", "/tf", "tf2_msgs/TFMessage", "reliable 100", "odom -> base at camera rate, never jumps"),
    ),
    "map_node": (
        ("sub", "chunk, corrections", "scal3r_ros/...", "reliable", ""),
        ("pub", "map_cloud", "sensor_msgs/PointCloud2", "reliable, latched", "the whole map, after a change and to whoever listens"),
        ("pub", "keyframes", "geometry_msgs/PoseArray", "reliable, latched", "camera poses of all keyframes"),
        ("pub", "map", "nav_msgs/OccupancyGrid", "reliable, latched", "-1 unknown, 0 free by a ray from a camera, 100 occupied"),
        ("pub", "elevation", "grid_map_msgs/GridMap", "reliable, latched", "layer `elevation`, NaN unknown; where grid_map_msgs is installed"),
    ),
}  # fmt: skip
SERVICES = (
    ("mapping_node/reset", "std_srvs/Trigger", "clears memory, map and trajectory; a new session"),
    ("mapping_node/pause, resume", "std_srvs/Trigger", "images are passed over while paused"),
    ("mapping_node/flush", "std_srvs/Trigger", "maps what waits now, as a shorter chunk"),
    ("mapping_node/new_map", "std_srvs/Trigger", "a new piece of the map, joined where recognised"),
    (
        "mapping_node/publish_map",
        "std_srvs/Trigger",
        "all chunks and their places again: for a map_node that starts late, which asks itself",
    ),
    (
        "mapping_node/save_map",
        "scal3r_ros/SaveMap",
        "everything needed to go on, as a folder; format mesh: a surface too",
    ),
    (
        "mapping_node/load_map",
        "scal3r_ros/LoadMap",
        "replace or merge; `localization_only`, `initial_pose`",
    ),
    ("mapping_node/set_mode", "scal3r_ros/SetMode", "mapping, or localisation in a finished map"),
    ("mapping_node/set_scale", "scal3r_ros/SetScale", "metres per map unit; 0: estimate again"),
    ("mapping_node/get_trajectory", "scal3r_ros/GetTrajectory", "poses of all keyframes"),
    ("map_node/save_map", "scal3r_ros/SaveMap", "the cloud as PLY, PCD or NPZ"),
    ("NODE/change_state, get_state, ...", "lifecycle_msgs", "of mapping_node and odometry_node"),
)


def yaml_text() -> str:
    """config/mapping.yaml: all nodes, any namespace, every default with its meaning."""
    lines = ["# Generated from scal3r_ros/ros/parameters.py: every parameter with its default."]
    for node, parameters in NODES.items():
        lines += [f"/**/{node}:", "  ros__parameters:"]
        lines += [f"    {p.name}: {_yaml(p.default)}  # {_explain(p)}" for p in parameters]
    return "\n".join(lines) + "\n"


def interface_text() -> str:
    """docs/interface.md: topics, services, parameters and messages."""
    lines = ["# Interface", "", "Generated by `python -m scal3r_ros.ros.documents interface`.", ""]
    for node, topics in TOPICS.items():
        lines += [
            f"## Topics of {node}",
            "",
            "| | topic | type | QoS | notes |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| {way} | `{name}` | {kind} | {qos} | {notes} |"
            for way, name, kind, qos, notes in topics
        ]
        lines.append("")
    lines += ["## Services", "", "| service | type | |", "|---|---|---|"]
    lines += [f"| `{name}` | {kind} | {what} |" for name, kind, what in SERVICES]
    lines += [
        "",
        "## Parameters",
        "",
        "Ranges and choices are checked at the start and at every",
    ]
    lines += ["change; `live` ones may change while a node runs (`ros2 param set`).", ""]
    for node, parameters in NODES.items():
        lines += [
            f"### {node}",
            "",
            "| parameter | default | meaning | live |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| `{p.name}` | `{_yaml(p.default)}` | {_explain(p)} | {'yes' if p.live else ''} |"
            for p in parameters
        ]
        lines.append("")
    lines += ["## Messages and services of this package", ""]
    folder = message_folder()
    for file in [*sorted(folder.glob("*.msg")), *sorted((folder.parent / "srv").glob("*.srv"))]:
        lines += [f"### {file.name}", "", "```", file.read_text().rstrip(), "```", ""]
    return "\n".join(lines).rstrip() + "\n"


def _yaml(default: Any) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return f'"{default}"' if isinstance(default, str) else repr(default)


def _explain(p: Parameter) -> str:
    bounds = "" if p.low is None else f" [{p.low:g} to {p.high:g}]"
    return p.meaning + bounds


def main() -> None:
    texts = {"yaml": yaml_text, "interface": interface_text}
    if len(sys.argv) != 2 or sys.argv[1] not in texts:
        print(f"usage: {Path(sys.argv[0]).name} {'|'.join(texts)}", file=sys.stderr)
        sys.exit(2)
    print(texts[sys.argv[1]](), end="")


if __name__ == "__main__":
    main()
