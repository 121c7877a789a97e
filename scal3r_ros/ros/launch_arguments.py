"""What launch files make of their arguments: an empty one leaves `params_file` as it is."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

SENSORS = {  # role of mapping_node -> default topic
    "odom": "/odom",
    "sensor_depth/image": "/camera/aligned_depth_to_color/image_raw",
    "right/image": "/camera/right/image_rect",
    "imu": "/imu/data",
}


def yes(text: str) -> bool:
    """Raises ValueError for what is neither yes nor no."""
    word = text.strip().lower()
    if word not in ("true", "1", "yes", "on", "false", "0", "no", "off"):
        raise ValueError(f"true or false is expected, got {text!r}")
    return word in ("true", "1", "yes", "on")


def given(
    arguments: Mapping[str, str], kinds: Mapping[str, Callable[[str], Any]]
) -> dict[str, Any]:
    """Parameters whose arguments are not empty. Raises ValueError with the argument's name."""
    found = {}
    for name, read in kinds.items():
        if arguments[name]:
            try:
                found[name] = read(arguments[name])
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
    return found


def sections(content: Mapping[str, Any], node: str) -> dict[str, Any]:
    """What a parameter file holds for a node, of whatever namespace, and for all nodes."""
    ours = (node, "*", "**")
    return {name: held for name, held in content.items() if str(name).rpartition("/")[2] in ours}


def in_file(params_file: str, node: str, name: str) -> Any:
    """A parameter as a file has it for a node; None where it has not. Raises ValueError for a file
    that is no mapping."""
    content = yaml.safe_load(Path(params_file).read_text()) or {}
    if not isinstance(content, dict):
        raise ValueError(f"{params_file} must name nodes and their ros__parameters")
    value = None
    for held in sections(content, node).values():
        value = ((held or {}).get("ros__parameters") or {}).get(name, value)
    return value


def beside(image_topic: str, name: str) -> str:
    """A topic of the same camera: /camera/image_raw, camera_info -> /camera/camera_info."""
    return image_topic[: image_topic.rfind("/") + 1] + name


def camera_topics(image_topic: str, camera_info_topic: str = "") -> dict[str, str]:
    """What the nodes call `image` and `camera_info`, on the robot."""
    return {
        "image": image_topic,
        "image/compressed": f"{image_topic}/compressed",
        "camera_info": camera_info_topic or beside(image_topic, "camera_info"),
    }


def played_topics(arguments: Mapping[str, str], remapped: Mapping[str, str]) -> list[str]:
    """What of a bag is played: the inputs that the settings ask for. Our own outputs, which a
    recording may hold too, would meet those of the nodes."""

    def setting(name: str, node: str = "mapping_node") -> Any:
        return arguments.get(name) or in_file(arguments["params_file"], node, name)

    odom, scale, up = map(setting, ("odom_source", "scale_source", "map_orientation"))
    asked = {
        "image": True,
        "image/compressed": True,
        "camera_info": True,
        "odom": odom == "topic",
        "sensor_depth/image": scale == "depth",
        "right/image": scale == "stereo",
        "right/camera_info": scale == "stereo",
        "imu": "imu" in (scale, up) or yes(str(setting("use_imu", "odometry_node") or "no")),
    }
    names = [remapped[role] for role, is_asked in asked.items() if is_asked]
    names += [setting("mask_topic", node) for node in ("mapping_node", "odometry_node")]
    transforms = ("/tf_static", "/tf") if odom == "tf" else ("/tf_static",)
    names += [remapped.get(name, name) for name in transforms]
    names += arguments["bag_topics"].split()
    prefix = f"/{arguments['namespace'].strip('/')}".rstrip("/")
    found = (name if name.startswith("/") else f"{prefix}/{name}" for name in names if name)
    return list(dict.fromkeys(found))


def sensor_topics(odom: str, depth: str, right: str, imu: str) -> dict[str, str]:
    """What mapping_node may listen to beside images, on the robot."""
    return {
        **dict(zip(SENSORS, (odom, depth, right, imu), strict=True)),
        "right/camera_info": beside(right, "camera_info"),
    }
