"""Images of a rosbag2 (sqlite3 or MCAP), read without ROS."""

import itertools
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rosbags.highlevel import AnyReader
from rosbags.interfaces import Connection
from rosbags.typesys import Stores, get_typestore

from scal3r_ros.data.calibration import camera_of_info, is_rectified
from scal3r_ros.data.encodings import BitDepth, EncodingError, decode_compressed, decode_image
from scal3r_ros.data.sequence import BAG_SUFFIXES, RawImage, SequenceError, reindex_hint
from scal3r_ros.geometry.camera import Camera

logger = logging.getLogger(__name__)

RAW, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
INFO = "sensor_msgs/msg/CameraInfo"
METADATA = "rosbag2_bagfile_information"  # begins a bag's metadata.yaml, not that of others


def is_bag(path: Path) -> bool:
    told = path / "metadata.yaml"
    if told.is_file():
        return METADATA in told.read_text(errors="ignore")
    return path.suffix in BAG_SUFFIXES


class Bag:
    """An open rosbag2; what of it is damaged is a SequenceError, in one line."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise SequenceError(f"{path} does not exist")
        if not is_bag(path):
            raise SequenceError(
                f"{path} is no rosbag2 (a folder with its metadata.yaml, .mcap or .db3); "
                f"images and videos are for `scal3r map`{reindex_hint(path)}"
            )
        self.path = path
        with self._readable():
            # bags without message definitions fall back to the newest distribution's
            self._reader = AnyReader([path], default_typestore=get_typestore(Stores.LATEST))

    def __enter__(self) -> "Bag":
        with self._readable():
            self._reader.open()
        self.connections = self._reader.connections
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def messages(self, connections: Iterable[Connection]) -> Iterator[tuple[Connection, int, Any]]:
        """Connection, time in ns and serialised message; none where there are no connections.
        Where the bag is damaged midway they end, which is said."""
        wanted = list(connections)
        messages = self._reader.messages(wanted) if wanted else iter(())
        for count in itertools.count():
            try:
                with self._readable():
                    message = next(messages, None)
            except SequenceError as error:
                if not count:
                    raise
                logger.warning("%s; the %d messages before it are used", error, count)
                return
            if message is None:
                return
            yield message

    def deserialize(self, data: Any, kind: str) -> Any:
        with self._readable():
            return self._reader.deserialize(data, kind)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            raise
        except (
            Exception
        ) as error:  # damage shows as whatever a decoder stumbles over: a dozen kinds
            why = " ".join(f"{type(error).__name__}: {error}".split())
            mcap = self.path.suffix == ".mcap" or any(self.path.glob("*.mcap"))
            hint = "; `mcap recover` saves what is whole" if mcap else ""
            raise SequenceError(f"{self.path} cannot be read as a rosbag2: {why}{hint}") from error


class BagImages:
    """One image topic of a bag, with its camera's first CameraInfo."""

    def __init__(self, path: Path, topic: str = "") -> None:
        self.path, self.name = path, str(path)
        with Bag(path) as bag:
            kinds = {c.topic: c.msgtype for c in bag.connections}
            topics = {topic: kind for topic, kind in kinds.items() if kind in (RAW, COMPRESSED)}
            self.topic = self._choose(topics, topic, list(kinds))
            self.kind = topics[self.topic]
            self.info_topic = info_topic(self.topic, kinds)
            self._length = sum(c.msgcount for c in bag.connections if c.topic == self.topic)
            self.camera = self._camera(bag)

    def __len__(self) -> int:
        return self._length

    def images(self) -> Iterator[RawImage | SequenceError]:
        bits = BitDepth()
        with Bag(self.path) as bag:
            connections = [c for c in bag.connections if c.topic == self.topic]
            for _, _, data in bag.messages(connections):
                try:
                    yield self._decode(bag.deserialize(data, self.kind), bits)
                except SequenceError as error:
                    yield error

    def _decode(self, message: Any, bits: BitDepth) -> RawImage:
        stamp = message.header.stamp
        try:
            if self.kind == COMPRESSED:
                image = decode_compressed(message.data, bits)
            else:
                image = decode_image(
                    message.encoding,
                    message.height,
                    message.width,
                    message.step,
                    bool(message.is_bigendian),
                    message.data,
                    bits,
                )
        except EncodingError as error:
            raise SequenceError(f"{self.topic}: {error}") from error
        return RawImage(stamp.sec * 1_000_000_000 + stamp.nanosec, image)

    def _choose(self, topics: dict[str, str], wanted: str, everything: list[str]) -> str:
        if wanted:
            wanted = f"/{wanted.lstrip('/')}"
            if wanted not in topics:
                raise SequenceError(f"{self.name} has no image topic {wanted}; it has {topics}")
            return wanted
        if not topics:
            listed = ", ".join(everything) or "no topics at all"
            raise SequenceError(f"{self.name} holds no images; its topics: {listed}")
        # a camera's raw images go before the same, compressed
        chosen = {topic for topic in topics if topic.removesuffix("/compressed") not in topics}
        chosen |= {topic for topic, kind in topics.items() if kind == RAW}
        if len(chosen) > 1:
            raise SequenceError(
                f"{self.name} has several image topics, choose one with --topic: "
                + ", ".join(topics)
            )
        return chosen.pop()

    def _camera(self, bag: Bag) -> Camera | None:
        """None without a CameraInfo, and of an uncalibrated one."""
        infos = [c for c in bag.connections if c.topic == self.info_topic]
        for connection, _, data in bag.messages(infos):
            info = bag.deserialize(data, connection.msgtype)
            return camera_of_info(info, rectified=is_rectified(self.topic))
        return None


def info_topic(image_topic: str, kinds: dict[str, str]) -> str:
    """The CameraInfo of an image topic, among the topics and types of a bag: that of its namespace,
    or the only one of a bag with one camera; camera_info in its namespace where there is none."""
    infos = [topic for topic, kind in kinds.items() if kind == INFO]
    cameras = {_space(topic) for topic, kind in kinds.items() if kind in (RAW, COMPRESSED)}
    usual = f"{_space(image_topic)}/camera_info"
    beside = [topic for topic in infos if _space(topic) == _space(image_topic)]
    if usual in beside or not infos:
        return usual
    if beside:
        return beside[0]
    return infos[0] if len(infos) == len(cameras) == 1 else usual


def _space(topic: str) -> str:
    return topic.removesuffix("/compressed").rpartition("/")[0]
