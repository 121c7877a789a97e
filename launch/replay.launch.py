"""ros2 launch scal3r_ros replay.launch.py bag:=PATH out:=DIR: offline, in lock-step, repeatable."""

import shlex

from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction
from launch.substitutions import LaunchConfiguration

from launch import LaunchDescription

ARGUMENTS = {
    "bag": ("", "rosbag2, sqlite3 or MCAP"),
    "out": ("out/replay", "folder for map, trajectory and the output bag"),
    "image_topic": ("", "of a bag that has several image topics"),
    "params_file": ("", "parameters of mapping_node"),
    "arguments": (
        "",
        "more of `scal3r replay`, e.g. '--remap odom:=/wheels -p odom_source:=topic'",
    ),
}


def generate_launch_description() -> LaunchDescription:
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])


def start(context) -> list:
    get = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    if not get["bag"]:
        raise ValueError("bag:=PATH is needed")
    command = ["ros2", "run", "scal3r_ros", "replay", get["bag"], "--out", get["out"]]
    if get["image_topic"]:
        command += ["--topic", get["image_topic"]]
    if get["params_file"]:
        command += ["--params-file", get["params_file"]]
    command += shlex.split(get["arguments"])
    return [ExecuteProcess(cmd=command, output="screen")]
