"""recorder: topics into an MCAP rosbag2 that Humble plays too, serialised bytes as they arrive."""

import time
from importlib import import_module
from pathlib import Path
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from scal3r_ros.ros.running import spin

TOPICS = {
    "chunk": "scal3r_ros/msg/Chunk",
    "corrections": "scal3r_ros/msg/Corrections",
    "status": "scal3r_ros/msg/Status",
    "odometry_status": "scal3r_ros/msg/Status",
    "odometry": "nav_msgs/msg/Odometry",
    "path": "nav_msgs/msg/Path",
    "pose": "geometry_msgs/msg/PoseWithCovarianceStamped",
    "points": "sensor_msgs/msg/PointCloud2",
    "map_cloud": "sensor_msgs/msg/PointCloud2",
    "map": "nav_msgs/msg/OccupancyGrid",
    "depth/image": "sensor_msgs/msg/Image",
    "depth/edge_certainty": "sensor_msgs/msg/Image",
    "/tf": "tf2_msgs/msg/TFMessage",
    "/tf_static": "tf2_msgs/msg/TFMessage",
}
LATCHED_TOPICS = {"corrections", "status", "odometry_status", "path", "map_cloud", "map"}
LATCHED_TOPICS |= {"/tf_static"}


def typestore() -> Any:
    """Standard types and ours, from the message files beside the package."""
    store = get_typestore(Stores.ROS2_KILTED)
    definitions = {}
    for file in sorted(message_folder().glob("*.msg")):
        definitions |= get_types_from_msg(file.read_text(), f"scal3r_ros/msg/{file.stem}")
    store.register(definitions)
    return store


def message_folder() -> Path:
    """msg/ of the checkout, or of the installed package."""
    beside = Path(__file__).parents[2] / "msg"
    if beside.is_dir():
        return beside
    from ament_index_python.packages import get_package_share_directory

    return Path(get_package_share_directory("scal3r_ros")) / "msg"


def offered_qos(latched: bool) -> tuple[Any, ...]:
    """As players offer it again: transient local for what a late subscriber must get."""
    if not latched:
        return ()
    never = QosTime(9223372036, 854775807)
    return (
        Qos(
            QosHistory.KEEP_LAST,
            1,
            QosReliability.RELIABLE,
            QosDurability.TRANSIENT_LOCAL,
            never,
            never,
            QosLiveliness.AUTOMATIC,
            never,
            False,
        ),
    )


class Recorder(Node):
    def __init__(self) -> None:
        super().__init__("recorder")
        self.declare_parameter("bag", "bag")
        bag = Path(self.get_parameter("bag").value)
        if bag.exists():
            raise FileExistsError(f"{bag} exists: a bag is never written over, choose another")
        self._writer = Writer(bag, version=8, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        store = typestore()
        for topic, kind in TOPICS.items():
            name = self.resolve_topic_name(topic)
            connection = self._writer.add_connection(
                name,
                kind,
                typestore=store,
                offered_qos_profiles=offered_qos(topic in LATCHED_TOPICS),
            )
            self._subscribe(topic, kind, connection)

    def _subscribe(self, topic: str, kind: str, connection: Any) -> None:
        package, _, name = kind.split("/")
        message = getattr(import_module(f"{package}.msg"), name)
        durability = DurabilityPolicy.VOLATILE
        if topic in LATCHED_TOPICS:
            durability = DurabilityPolicy.TRANSIENT_LOCAL
        qos = QoSProfile(depth=200, reliability=ReliabilityPolicy.RELIABLE, durability=durability)
        self.create_subscription(
            message,
            topic,
            lambda data, c=connection: self._writer.write(c, time.time_ns(), data),
            qos,
            raw=True,
        )

    def close(self) -> None:
        self._writer.close()


def main() -> None:
    spin(Recorder)


if __name__ == "__main__":
    main()
