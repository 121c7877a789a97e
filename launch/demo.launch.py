"""ros2 launch scal3r_ros demo.launch.py sequence:=PATH: publishes a sequence and maps it."""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchDescription

LAUNCH = Path(get_package_share_directory("scal3r_ros")) / "launch"


def generate_launch_description() -> LaunchDescription:
    publisher = Node(
        package="scal3r_ros",
        executable="image_publisher",
        parameters=[
            {
                "sequence": LaunchConfiguration("sequence"),
                "rate": LaunchConfiguration("rate"),
                "publish_clock": True,
                "wait_for_subscribers": 2,
            }
        ],
        remappings=[("image", "camera/image_raw"), ("camera_info", "camera/camera_info")],
        output="screen",
    )
    mapping = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(LAUNCH / "mapping.launch.py")),
        launch_arguments={
            "image_topic": "/camera/image_raw",
            "use_sim_time": "true",
            "rviz": LaunchConfiguration("rviz"),
        }.items(),
    )
    return LaunchDescription(
        [
            DeclareLaunchArgument("sequence", description="folder, video or rosbag2"),
            DeclareLaunchArgument("rate", default_value="1.0", description="against its stamps"),
            DeclareLaunchArgument("rviz", default_value="true"),
            mapping,
            publisher,
        ]
    )
