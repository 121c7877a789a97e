"""ros2 launch scal3r_ros record.launch.py profile:=inputs bag:=my_bag: an MCAP rosbag2."""

from pathlib import Path

import yaml
from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction
from launch.substitutions import LaunchConfiguration

from launch import LaunchDescription

CONFIG = Path(get_package_share_directory("scal3r_ros")) / "config"


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "profile", default_value="full", description="inputs, outputs, full"
            ),
            DeclareLaunchArgument("bag", default_value="scal3r_bag", description="folder to write"),
            DeclareLaunchArgument("image_topic", default_value="/camera/image_raw"),
            DeclareLaunchArgument("namespace", default_value=""),
            OpaqueFunction(function=start),
        ]
    )


def start(context) -> list:
    get = {
        name: LaunchConfiguration(name).perform(context)
        for name in ("profile", "bag", "image_topic", "namespace")
    }
    profiles = yaml.safe_load((CONFIG / "record_topics.yaml").read_text())
    profiles["full"] = sorted({*profiles["inputs"], *profiles["outputs"]})
    if get["profile"] not in profiles:
        raise ValueError(f"profile must be one of {list(profiles)}, got {get['profile']}")
    image = get["image_topic"]
    inputs = {
        "image": image,
        "image/compressed": f"{image}/compressed",
        "camera_info": f"{image.rsplit('/', 1)[0]}/camera_info",
    }
    prefix = f"/{get['namespace'].strip('/')}".rstrip("/")
    wanted = profiles[get["profile"]]
    topics = [inputs.get(t, t if t.startswith("/") else f"{prefix}/{t}") for t in wanted]
    if prefix:  # transforms may lie below the namespace
        topics += [f"{prefix}{t}" for t in wanted if t.startswith("/tf")]
    record = ["ros2", "bag", "record", "--storage", "mcap", "--output", get["bag"]]
    record += ["--max-cache-size", str(512 * 2**20)]
    record += ["--qos-profile-overrides-path", str(CONFIG / "qos_overrides.yaml"), *topics]
    return [ExecuteProcess(cmd=record, output="screen")]
