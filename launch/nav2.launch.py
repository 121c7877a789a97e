"""ros2 launch scal3r_ros nav2.launch.py: mapping with wheel odometry, and Nav2 on its outputs.

An example to copy: the robot publishes odom -> base_link; the map becomes metric by it.
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import (
    DeclareLaunchArgument,
    GroupAction,
    IncludeLaunchDescription,
    OpaqueFunction,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

from launch import LaunchDescription
from scal3r_ros.ros.nav2_parameters import laid_over_file

SHARE = Path(get_package_share_directory("scal3r_ros"))


def generate_launch_description() -> LaunchDescription:
    nav2 = Path(get_package_share_directory("nav2_bringup"))
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
    return LaunchDescription(
        [
            DeclareLaunchArgument("image_topic", default_value="/camera/image_raw"),
            DeclareLaunchArgument(
                "nav2_params_file",
                default_value=str(nav2 / "params" / "nav2_params.yaml"),
                description="your Nav2 parameters; config/nav2_scal3r.yaml is laid over them",
            ),
            GroupAction([mapping]),  # its arguments have the names of Nav2's: they end here
            OpaqueFunction(function=navigation, args=[nav2]),
        ]
    )


def navigation(context, nav2: Path) -> list:
    own = Path(LaunchConfiguration("nav2_params_file").perform(context))
    both = laid_over_file(own, SHARE / "config" / "nav2_scal3r.yaml")
    return [
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(str(nav2 / "launch" / "navigation_launch.py")),
            launch_arguments={"params_file": str(both)}.items(),
        )
    ]
