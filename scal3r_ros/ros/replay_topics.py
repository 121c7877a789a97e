"""Which topic of a bag plays which role in a replay. What is asked for and not there is refused."""

from collections import defaultdict

from scal3r_ros.data.rosbag import COMPRESSED, Bag, BagImages
from scal3r_ros.data.sequence import SequenceError
from scal3r_ros.ros.offline_node import OfflineNode
from scal3r_ros.ros.parameters import value

TRACKER = "/odometry"  # of the tracker, which runs in the replay: never heard from the bag


def read_remaps(texts: tuple[str, ...]) -> dict[str, str]:
    """Role -> topic, both with their slash, of ROLE:=TOPIC."""
    remaps = {}
    for text in texts:
        role, mark, topic = text.partition(":=")
        if not (role and mark and topic):
            raise ValueError(f"a topic is remapped as ROLE:=TOPIC, got {text!r}")
        remaps[f"/{role.lstrip('/')}"] = f"/{topic.lstrip('/')}"
    return remaps


def cast_roles(
    bag: Bag, images: BagImages, node: OfflineNode, remaps: dict[str, str]
) -> dict[str, list[str]]:
    """Topic of the bag -> names that the parts listen to."""
    there = {c.topic: c.msgtype for c in bag.connections}
    heard = {name: kind for name, kind in node.topics().items() if name != TRACKER}
    for name, topic in remaps.items():
        if topic not in there:
            raise SequenceError(f"{bag.path} has no topic {topic}; it has {sorted(there)}")
        if name not in heard:
            raise ValueError(
                f"nothing listens to {name} with these parameters; roles: {sorted(heard)}"
            )
    chosen = {name: name for name in heard} | _of_camera(images) | remaps
    roles: dict[str, list[str]] = defaultdict(list)
    for name, kind in heard.items():
        topic = chosen[name]
        if topic in there:
            if there[topic] != kind:
                raise SequenceError(f"{name} takes {kind}, but {topic} is {there[topic]}")
            roles[topic].append(name)
        elif name not in _optional(node):
            raise SequenceError(
                f"the parameters ask for {name}, but {bag.path} has no {topic}: remap "
                f"{name[1:]}:=TOPIC; it has {sorted(there)}"
            )
    return roles


def _of_camera(images: BagImages) -> dict[str, str]:
    image = "/image/compressed" if images.kind == COMPRESSED else "/image"
    return {image: images.topic, "/camera_info": images.info_topic}


def _optional(node: OfflineNode) -> set[str]:
    """Without calibration intrinsics are estimated; a transform that is missing is warned of."""
    required = value(node, "use_camera_info") == "required"
    return {"/tf_static"} if required else {"/tf_static", "/camera_info"}
