"""ros2 launch scal3r_ros record.launch.py profile:=inputs bag:=my_bag: an MCAP rosbag2."""

from pathlib import Path

import yaml
from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction
from launch.substitutions import LaunchConfiguration

from launch import LaunchDescription
from scal3r_ros.ros.launch_arguments import SENSORS, camera_topics, sensor_topics

CONFIG = Path(get_package_share_directory("scal3r_ros")) / "config"


ARGUMENTS = {
    "profile": ("full", "inputs, outputs or full"),
    "bag": ("scal3r_bag", "folder to write"),
    "namespace": ("", "of the nodes"),
    "image_topic": ("/camera/image_raw", "as in mapping.launch.py"),
    "camera_info_topic": ("", "as in mapping.launch.py"),
    "odom_topic": (SENSORS["odom"], "as in mapping.launch.py"),
    "depth_topic": (SENSORS["sensor_depth/image"], "as in mapping.launch.py"),
    "right_image_topic": (SENSORS["right/image"], "as in mapping.launch.py"),
    "imu_topic": (SENSORS["imu"], "as in mapping.launch.py"),
}


def generate_launch_description() -> LaunchDescription:
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])


def start(context) -> list:
    get = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    profiles = yaml.safe_load((CONFIG / "record_topics.yaml").read_text())
    profiles["full"] = sorted({*profiles["inputs"], *profiles["outputs"]})
    if get["profile"] not in profiles:
        raise ValueError(f"profile must be one of {list(profiles)}, got {get['profile']}")
    topics = (get[f"{name}_topic"] for name in ("odom", "depth", "right_image", "imu"))
    inputs = camera_topics(get["image_topic"], get["camera_info_topic"]) | sensor_topics(*topics)
    prefix = f"/{get['namespace'].strip('/')}".rstrip("/")
    wanted = profiles[get["profile"]]
    topics = [inputs.get(t, t if t.startswith("/") else f"{prefix}/{t}") for t in wanted]
    if prefix:  # transforms may lie below the namespace
        topics += [f"{prefix}{t}" for t in wanted if t.startswith("/tf")]
    record = ["ros2", "bag", "record", "--storage", "mcap", "--output", get["bag"]]
    record += ["--max-cache-size", str(512 * 2**20)]
    record += ["--qos-profile-overrides-path", str(CONFIG / "qos_overrides.yaml"), *topics]
    return [ExecuteProcess(cmd=record, output="screen")]
