"""ros2 launch scal3r_ros mapping.launch.py image_topic:=/camera/image_raw"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import (
    DeclareLaunchArgument,
    GroupAction,
    OpaqueFunction,
    SetEnvironmentVariable,
)
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node, PushRosNamespace

from launch import LaunchDescription
from scal3r_ros.doctor import fast_dds_variable
from scal3r_ros.ros.launch_arguments import (
    SENSORS,
    camera_topics,
    given,
    in_file,
    played_topics,
    sensor_topics,
    yes,
)

CONFIG = Path(get_package_share_directory("scal3r_ros")) / "config"

# Of the nodes: parameters that an argument of the same name sets. Empty: as in params_file.
SHARED = {
    "use_sim_time": yes,
    "image_transport": str,
    "base_frame": str,
    "camera_frame": str,
    "publish_tf": yes,
    "require_metric": yes,
    "autostart": yes,
}
MAPPING = {
    "model": str,
    "checkpoint": str,
    "device": str,
    "odom_source": str,
    "scale_source": str,
    "fixed_scale": float,
    "camera_height": float,
    "map_orientation": str,
    "map_folder": str,
    "autosave_path": str,
}
ODOMETRY = {"use_imu": yes}
MAP = {"map_folder": str, "require_metric": yes}
ARGUMENTS = {
    "params_file": (str(CONFIG / "mapping.yaml"), "parameters of all nodes"),
    "image_topic": ("/camera/image_raw", "topic of the images, without /compressed"),
    "camera_info_topic": ("", "empty: camera_info beside the images"),
    "image_transport": ("", "raw or compressed"),
    "model": ("", "nano (ships with the package) or scal3r (needs checkpoint)"),
    "checkpoint": ("", "weights; none: those of the package"),
    "device": ("", "auto, cpu or cuda:N"),
    "namespace": ("", "namespace of all nodes and relative topics"),
    "use_sim_time": ("", "true where a bag or a simulator publishes /clock"),
    "base_frame": ("", "frame of the robot, e.g. base_link; none: the frame of the images"),
    "camera_frame": ("", "optical frame of the camera; none: that of the image headers"),
    "odom_source": ("", "tracker (odometry_node), topic, tf, or none (chunk rate)"),
    "odom_topic": (SENSORS["odom"], "the robot's odometry, with odom_source:=topic"),
    "odometry": ("auto", "start odometry_node; auto: where odom_source is tracker"),
    "use_imu": ("", "true: odometry_node takes turns from the gyroscope on imu_topic"),
    "scale_source": ("", "none, fixed, odometry, camera_height, depth, stereo or imu"),
    "require_metric": ("", "true: poses, odometry, points and maps only once in metres"),
    "fixed_scale": ("", "metres per map unit, with scale_source:=fixed"),
    "camera_height": ("", "m above the ground, with scale_source:=camera_height"),
    "depth_topic": (SENSORS["sensor_depth/image"], "with scale_source:=depth"),
    "right_image_topic": (SENSORS["right/image"], "with scale_source:=stereo"),
    "imu_topic": (SENSORS["imu"], "with scale_source:=imu, map_orientation:=imu or use_imu:=true"),
    "map_orientation": ("", "base, imu, ground, camera_level or raw_optical"),
    "map_folder": ("", "folder of saved maps; none: the working directory"),
    "autosave_path": ("", "map saved at the end, below map_folder"),
    "namespaced_tf": ("false", "true: tf and tf_static below the namespace, for several robots"),
    "publish_tf": ("", "broadcast map -> odom -> base_frame"),
    "map": ("true", "start map_node: map_cloud, occupancy grid, save_map"),
    "rviz": ("false", "start RViz"),
    "rviz_config": (str(CONFIG / "scal3r.rviz"), "RViz configuration"),
    "foxglove": ("false", "start foxglove_bridge; config/foxglove_layout.json fits it"),
    "dds_profile": ("true", "let Fast DDS carry large images and clouds"),
    "autostart": ("", "configure and activate the lifecycle nodes at once"),
    "respawn": ("false", "start a node again when it dies"),
    "log_level": ("info", "debug, info, warn or error"),
    "bag": ("", "rosbag2 whose inputs are played once the nodes are up; sets use_sim_time"),
    "bag_topics": (
        "",
        "more of it to play, with blanks between, e.g. '/scan /joint_states'",
    ),
}


def generate_launch_description() -> LaunchDescription:
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=_described(name, text))
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])


def start(context) -> list:
    """The nodes, with every argument resolved."""
    get = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    images = list(camera_topics(get["image_topic"], get["camera_info_topic"]).items())
    topics = (get[f"{name}_topic"] for name in ("odom", "depth", "right_image", "imu"))
    sensors = sensor_topics(*topics)
    shared = given(get, SHARED) | ({"use_sim_time": True} if get["bag"] else {})
    mapping = given(get, MAPPING)
    clock = [{"use_sim_time": shared["use_sim_time"]}] if "use_sim_time" in shared else []
    tf = []
    if get["namespace"] and yes(get["namespaced_tf"]):
        tf = [("/tf", "tf"), ("/tf_static", "tf_static")]
    nodes = [
        PushRosNamespace(get["namespace"]),
        _node("mapping_node", get, shared | mapping, [*images, *sensors.items(), *tf]),
    ]
    stored = in_file(get["params_file"], "mapping_node", "odom_source")
    tracked = (get["odom_source"] or stored or "tracker") == "tracker"
    if tracked if get["odometry"] == "auto" else yes(get["odometry"]):
        odometry = shared | given(get, ODOMETRY)
        if not tracked:  # odom -> base is somebody else's
            odometry["publish_tf"] = False
        nodes.append(_node("odometry_node", get, odometry, [*images, ("imu", sensors["imu"]), *tf]))
    if yes(get["map"]):
        clouds = given(get, MAP) | dict(*clock)
        nodes.append(_node("map_node", get, clouds, []))
    if yes(get["rviz"]):
        nodes.append(
            Node(
                package="rviz2",
                executable="rviz2",
                arguments=["-d", get["rviz_config"]],
                parameters=clock,
                remappings=tf,
            )
        )
    if yes(get["foxglove"]):
        bridge = Node(package="foxglove_bridge", executable="foxglove_bridge", parameters=clock)
        nodes.append(bridge)
    if get["bag"]:
        played = played_topics(get, dict([*images, *sensors.items(), *tf]))
        play = ["ros2", "bag", "play", get["bag"], "--clock", "100", "--topics", *played]
        nodes.append(
            Node(package="scal3r_ros", executable="when_ready", arguments=play, output="screen")
        )
    profile = str(CONFIG / "fastdds_large_data.xml")
    named = [SetEnvironmentVariable(fast_dds_variable(), profile)]
    environment = named if yes(get["dds_profile"]) else []
    return [*environment, GroupAction(nodes)]


def _node(name: str, get: dict[str, str], parameters: dict, remappings: list) -> Node:
    logger = ".".join([*get["namespace"].replace("/", " ").split(), name])
    return Node(
        package="scal3r_ros",
        executable=name,
        name=name,
        parameters=[get["params_file"], *([parameters] if parameters else [])],
        remappings=remappings,
        arguments=["--ros-args", "--log-level", f"{logger}:={get['log_level']}"],
        respawn=yes(get["respawn"]),
        sigterm_timeout="60",  # s: a long chunk is finished and the map saved (autosave_path)
        sigkill_timeout="30",
        output="screen",
    )


def _described(name: str, text: str) -> str:
    return f"{text}; empty: as in params_file" if name in SHARED | MAPPING | ODOMETRY else text
