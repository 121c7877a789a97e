"""A node without a network: what it publishes goes into a bag, what it hears comes out of one.

The very same parts that run online run here in lock-step, so that nothing is dropped and two runs
give the same result.
"""

import logging
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml
from builtin_interfaces.msg import Time
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.rosbag2 import StoragePlugin, Writer

from scal3r_ros.ros.conversions import ns_to_stamp
from scal3r_ros.ros.launch_arguments import sections
from scal3r_ros.ros.parameters import Parameter, refusal
from scal3r_ros.ros.recorder import offered_qos, typestore

logger = logging.getLogger(__name__)


class ParameterError(ValueError):
    """A parameter that does not exist or does not fit."""


class ReplayLogger(logging.LoggerAdapter):
    """Of the parts; keeps what may be why a replay comes to nothing."""

    def __init__(self) -> None:
        super().__init__(logger, {})
        self.errors: list[str] = []

    def error(self, msg: object, *args: object, **options: Any) -> None:
        self.errors.append(str(msg))
        super().error(msg, *args, **options)


class BagPublisher:
    def __init__(self, node: "OfflineNode", topic: str, kind: type) -> None:
        self.node, self.topic, self.kind = node, topic, kind

    def publish(self, message: Any) -> None:
        self.node.write(self.topic, self.kind, message)

    def get_subscription_count(self) -> int:
        return 1  # everything is recorded


class OfflineNode:
    """The part of rclpy's Node that the package's parts use."""

    def __init__(
        self, parameters: tuple[Parameter, ...], overrides: dict[str, Any], bag: Path
    ) -> None:
        self._values = checked_parameters(parameters, overrides)
        self._heard: dict[str, list[tuple[type, Callable[[Any], None]]]] = defaultdict(list)
        self._writer = Writer(bag, version=8, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        self._store = typestore()
        self._logger = ReplayLogger()
        self._connections: dict[str, Any] = {}
        self._latched: set[str] = set()  # topics
        self.now_ns = 0  # of the bag
        self.messages = 0  # written

    def close(self) -> None:
        self._writer.close()

    def hear(self, topic: str, data: bytes) -> None:
        """A serialised message of a topic that somebody subscribed to."""
        for kind, callback in self._heard.get(topic, ()):
            try:
                message = deserialize_message(data, kind)
            except RuntimeError as error:
                text = f"a message on {topic} is damaged, it is no {type_name(kind)}"
                raise ValueError(text) from error
            callback(message)

    def topics(self) -> dict[str, str]:
        """What somebody subscribed to, with its type."""
        return {topic: type_name(listeners[0][0]) for topic, listeners in self._heard.items()}

    @property
    def errors(self) -> list[str]:
        """That the parts logged."""
        return self._logger.errors

    def write(self, topic: str, kind: type, message: Any) -> None:
        """At the time of the bag, so that two runs write the same."""
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(
                topic,
                type_name(kind),
                typestore=self._store,
                offered_qos_profiles=offered_qos(topic in self._latched),
            )
        self._writer.write(self._connections[topic], self.now_ns, serialize_message(message))
        self.messages += 1

    def create_publisher(self, kind: type, topic: str, qos: QoSProfile | int) -> BagPublisher:
        publisher = BagPublisher(self, self.resolve_topic_name(topic), kind)
        if isinstance(qos, QoSProfile) and qos.durability == DurabilityPolicy.TRANSIENT_LOCAL:
            self._latched.add(publisher.topic)
        return publisher

    def create_subscription(
        self, kind: type, topic: str, callback: Callable[[Any], None], *_: Any, **__: Any
    ) -> object:
        self._heard[self.resolve_topic_name(topic)].append((kind, callback))
        return object()

    def create_timer(self, *_: Any, **__: Any) -> object:
        return object()

    def destroy_subscription(self, _: Any) -> None: ...

    def destroy_timer(self, _: Any) -> None: ...

    def destroy_publisher(self, _: Any) -> None: ...

    def resolve_topic_name(self, topic: str) -> str:
        return topic if topic.startswith("/") else f"/{topic}"

    def get_publishers_info_by_topic(self, _: str) -> list[Any]:
        return []

    def get_logger(self) -> ReplayLogger:
        return self._logger

    def get_name(self) -> str:
        return "replay"

    def get_clock(self) -> Any:
        return self

    def now(self) -> Any:
        return SimpleNamespace(nanoseconds=self.now_ns, to_msg=self._stamp)

    def _stamp(self) -> Time:
        return ns_to_stamp(self.now_ns)

    def get_parameter(self, name: str) -> Any:
        return SimpleNamespace(value=self._values[name])


def type_name(kind: type) -> str:
    """Of a message, as bags write it: sensor_msgs/msg/Image."""
    return f"{kind.__module__.partition('.')[0]}/msg/{kind.__name__}"


def checked_parameters(
    parameters: tuple[Parameter, ...], overrides: dict[str, Any]
) -> dict[str, Any]:
    """Defaults and overrides, by the same ranges and choices as online. Raises ParameterError."""
    known = {p.name: p for p in parameters}
    values = {"use_sim_time": True} | {p.name: p.default for p in parameters}
    for name, given in overrides.items():
        if name == "use_sim_time":
            continue
        if name not in known:
            raise ParameterError(f"there is no parameter {name}; known: {', '.join(known)}")
        p, value = known[name], given
        if isinstance(p.default, float) and type(value) is int:
            value = float(value)
        if type(value) is not type(p.default):
            wanted = type(p.default).__name__
            raise ParameterError(f"{name} must be {wanted}, got {given!r}")
        if reason := refusal(p, value):
            raise ParameterError(reason)
        values[name] = value
    return values


def parameters_of(file: Path | None, node: str, given: list[str]) -> dict[str, Any]:
    """Of a ROS parameter file (any namespace) and of NAME:=VALUE texts, which win."""
    found = {} if file is None else _of_file(file, node)
    for text in given:
        name, mark, value = text.partition(":=")
        if not mark:
            raise ParameterError(f"a parameter is given as NAME:=VALUE, got {text!r}")
        found[name] = _parsed(value, text)
    return found


def _of_file(file: Path, node: str) -> dict[str, Any]:
    content = _parsed(file.read_text(errors="replace"), str(file))
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise ParameterError(f"{file} must name nodes and their ros__parameters, it holds a {kind}")
    found: dict[str, Any] = {}
    ours = sections(content, node)
    if not ours:
        raise ParameterError(f"{file} has nothing for {node}, only for {list(content)}")
    for name, section in ours.items():
        if not isinstance(section, dict) or not isinstance(section.get("ros__parameters"), dict):
            raise ParameterError(f"{file}: {name} must hold ros__parameters")
        found |= section["ros__parameters"]
    return found


def _parsed(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ParameterError(f"{where}: {' '.join(str(error).split())}") from error
