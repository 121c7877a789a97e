"""ros2 launch scal3r_ros mapping.launch.py image_topic:=/camera/image_raw"""

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import (
    DeclareLaunchArgument,
    GroupAction,
    OpaqueFunction,
    SetEnvironmentVariable,
)
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node, PushRosNamespace

from launch import LaunchDescription

CONFIG = Path(get_package_share_directory("scal3r_ros")) / "config"

ARGUMENTS = {
    "image_topic": ("/camera/image_raw", "topic of the images, without /compressed"),
    "camera_info_topic": ("", "empty: camera_info beside the images"),
    "image_transport": ("raw", "raw or compressed"),
    "params_file": (str(CONFIG / "mapping.yaml"), "parameters of all nodes"),
    "model": ("nano", "nano (ships with the package) or scal3r (needs checkpoint)"),
    "checkpoint": ("", "weights; empty: those of the package"),
    "device": ("auto", "auto, cpu or cuda:N"),
    "namespace": ("", "namespace of all nodes and relative topics"),
    "use_sim_time": ("false", "true where a bag or a simulator publishes /clock"),
    "base_frame": ("", "frame of the robot, e.g. base_link; empty: the frame of the images"),
    "camera_frame": ("", "optical frame of the camera; empty: that of the image headers"),
    "odom_source": ("tracker", "tracker (odometry_node), topic, tf, or none (chunk rate)"),
    "odom_topic": ("/odom", "the robot's odometry, with odom_source:=topic"),
    "scale_source": ("none", "none, fixed, odometry, camera_height, depth, stereo or imu"),
    "fixed_scale": ("1.0", "metres per map unit, with scale_source:=fixed"),
    "camera_height": ("0.0", "m above the ground, with scale_source:=camera_height"),
    "depth_topic": ("/camera/aligned_depth_to_color/image_raw", "with scale_source:=depth"),
    "right_image_topic": ("/camera/right/image_rect", "with scale_source:=stereo"),
    "imu_topic": ("/imu/data", "with scale_source:=imu or map_orientation:=imu"),
    "map_orientation": ("camera_level", "base, imu, ground, camera_level or raw_optical"),
    "map_folder": ("", "folder of saved maps; empty: the working directory"),
    "autosave_path": ("", "map saved at the end, below map_folder"),
    "namespaced_tf": ("false", "true: tf and tf_static below the namespace, for several robots"),
    "publish_tf": ("true", "broadcast map -> odom -> base_frame"),
    "map": ("true", "start map_node: map_cloud, occupancy grid, save_map"),
    "rviz": ("false", "start RViz"),
    "rviz_config": (str(CONFIG / "scal3r.rviz"), "RViz configuration"),
    "foxglove": ("false", "start foxglove_bridge; config/foxglove_layout.json fits it"),
    "dds_profile": ("true", "let Fast DDS carry large images and clouds"),
    "autostart": ("true", "configure and activate the lifecycle nodes at once"),
    "respawn": ("false", "start a node again when it dies"),
    "log_level": ("info", "debug, info, warn or error"),
    "bag": ("", "rosbag2 to play with /clock once the nodes are up; sets use_sim_time"),
}


def generate_launch_description() -> LaunchDescription:
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])


def start(context) -> list:
    """The nodes, with every argument resolved."""
    get = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    image = get["image_topic"]
    info = get["camera_info_topic"] or f"{image.rsplit('/', 1)[0]}/camera_info"
    images = [("image", image), ("image/compressed", f"{image}/compressed"), ("camera_info", info)]
    right = get["right_image_topic"]
    sensors = [
        ("odom", get["odom_topic"]),
        ("sensor_depth/image", get["depth_topic"]),
        ("right/image", right),
        ("right/camera_info", f"{right.rsplit('/', 1)[0]}/camera_info"),
        ("imu", get["imu_topic"]),
    ]
    shared = {
        "use_sim_time": get["use_sim_time"] == "true" or bool(get["bag"]),
        "image_transport": get["image_transport"],
        "base_frame": get["base_frame"],
        "camera_frame": get["camera_frame"],
        "publish_tf": get["publish_tf"] == "true",
        "autostart": get["autostart"] == "true",
    }
    mapping = {
        "model": get["model"],
        "checkpoint": get["checkpoint"],
        "device": get["device"],
        "odom_source": get["odom_source"],
        "scale_source": get["scale_source"],
        "fixed_scale": float(get["fixed_scale"]),
        "camera_height": float(get["camera_height"]),
        "map_orientation": get["map_orientation"],
        "map_folder": get["map_folder"],
        "autosave_path": get["autosave_path"],
    }
    clock = {"use_sim_time": shared["use_sim_time"]}
    if get["namespace"] and get["namespaced_tf"] == "true":
        images += [("/tf", "tf"), ("/tf_static", "tf_static")]
    nodes = [
        PushRosNamespace(get["namespace"]),
        _node("mapping_node", get, shared | mapping, images + sensors),
    ]
    if get["odom_source"] == "tracker":
        nodes.append(_node("odometry_node", get, shared, images))
    if get["map"] == "true":
        clouds = clock | {"map_folder": get["map_folder"]}
        nodes.append(_node("map_node", get, clouds, []))
    if get["rviz"] == "true":
        nodes.append(
            Node(
                package="rviz2",
                executable="rviz2",
                arguments=["-d", get["rviz_config"]],
                parameters=[clock],
                remappings=images[3:],
            )
        )
    if get["foxglove"] == "true":
        bridge = Node(package="foxglove_bridge", executable="foxglove_bridge", parameters=[clock])
        nodes.append(bridge)
    if get["bag"]:
        play = ["ros2", "bag", "play", get["bag"], "--clock", "100"]
        nodes.append(
            Node(package="scal3r_ros", executable="when_ready", arguments=play, output="screen")
        )
    profile = str(CONFIG / "fastdds_large_data.xml")
    wanted = IfCondition(LaunchConfiguration("dds_profile"))
    old = os.environ.get("ROS_DISTRO") == "humble"  # later ones warn of the old name
    name = "FASTRTPS_DEFAULT_PROFILES_FILE" if old else "FASTDDS_DEFAULT_PROFILES_FILE"
    environment = [SetEnvironmentVariable(name, profile, condition=wanted)]
    return [*environment, GroupAction(nodes)]


def _node(name: str, get: dict[str, str], parameters: dict, remappings: list) -> Node:
    return Node(
        package="scal3r_ros",
        executable=name,
        name=name,
        parameters=[get["params_file"], parameters],
        remappings=remappings,
        arguments=["--ros-args", "--log-level", f"{name}:={get['log_level']}"],
        respawn=get["respawn"] == "true",
        output="screen",
    )
