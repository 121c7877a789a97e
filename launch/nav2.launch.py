"""ros2 launch scal3r_ros nav2.launch.py: mapping with wheel odometry, and Nav2 on its outputs.

An example to copy: the robot publishes odom -> base_link; the map becomes metric by it.
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, GroupAction, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

from launch import LaunchDescription

SHARE = Path(get_package_share_directory("scal3r_ros"))


def generate_launch_description() -> LaunchDescription:
    mapping = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(SHARE / "launch" / "mapping.launch.py")),
        launch_arguments={
            "image_topic": LaunchConfiguration("image_topic"),
            "base_frame": "base_link",
            "odom_source": "tf",
            "scale_source": "odometry",
            "require_metric": "true",
            "namespace": "scal3r",
        }.items(),
    )
    nav2 = Path(get_package_share_directory("nav2_bringup")) / "launch" / "navigation_launch.py"
    navigation = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(nav2)),
        launch_arguments={"params_file": str(SHARE / "config" / "nav2_scal3r.yaml")}.items(),
    )
    return LaunchDescription(
        [
            DeclareLaunchArgument("image_topic", default_value="/camera/image_raw"),
            GroupAction([mapping]),  # its arguments have the names of Nav2's: they end here
            navigation,
        ]
    )
