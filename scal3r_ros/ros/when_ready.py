"""when_ready COMMAND...: runs a command once mapping_node maps, e.g. `ros2 bag play`.

A bag that plays while the weights are still read loses its first images.
"""

import os
import sys

import rclpy
from rclpy.node import Node

from scal3r_ros.ros.interfaces import Status
from scal3r_ros.ros.map_publisher import LATCHED

REMIND_S = 30.0


class Waiter(Node):
    def __init__(self) -> None:
        super().__init__("when_ready")
        self.ready = False
        self.create_subscription(Status, "status", self._on_status, LATCHED)
        self.create_timer(REMIND_S, self._remind)

    def _on_status(self, message: Status) -> None:
        """The first one comes with activation."""
        self.ready = message.state not in (Status.UNCONFIGURED, Status.ERROR)

    def _remind(self) -> None:
        topic = self.resolve_topic_name("status")
        self.get_logger().warning(f"mapping_node is not active yet: waiting for {topic}")


def main() -> None:
    arguments = sys.argv[1:]
    end = arguments.index("--ros-args") if "--ros-args" in arguments else len(arguments)
    command = arguments[:end]
    if not command:
        sys.exit("usage: when_ready COMMAND...")
    rclpy.init()
    node = Waiter()
    try:
        while not node.ready:
            rclpy.spin_once(node, timeout_sec=0.5)
    except KeyboardInterrupt:
        return
    node.destroy_node()
    rclpy.shutdown()
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
