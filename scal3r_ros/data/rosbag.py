"""Images of a rosbag2 (sqlite3 or MCAP), read without ROS."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.typesys import Stores, get_typestore

from scal3r_ros.data.encodings import EncodingError, decode_compressed, decode_image
from scal3r_ros.data.sequence import RawImage, SequenceError
from scal3r_ros.geometry.camera import Camera

RAW, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
INFO = "sensor_msgs/msg/CameraInfo"
FISHEYE = ("equidistant", "fisheye")
MODELS = ("plumb_bob", "rational_polynomial", *FISHEYE)


def is_bag(path: Path) -> bool:
    return (path / "metadata.yaml").exists() or path.suffix in (".mcap", ".db3")


class BagImages:
    """One image topic of a bag, with the first CameraInfo beside it."""

    def __init__(self, path: Path, topic: str = "") -> None:
        self.path, self.name = path, str(path)
        with self._open() as bag:
            topics = {c.topic: c.msgtype for c in bag.connections if c.msgtype in (RAW, COMPRESSED)}
            self.topic = self._choose(topics, topic, [c.topic for c in bag.connections])
            self.kind = topics[self.topic]
            self._length = sum(c.msgcount for c in bag.connections if c.topic == self.topic)
            self.camera = self._camera(bag)

    def __len__(self) -> int:
        return self._length

    def images(self) -> Iterator[RawImage]:
        with self._open() as bag:
            connections = [c for c in bag.connections if c.topic == self.topic]
            for connection, _, data in bag.messages(connections):
                yield self._decode(bag.deserialize(data, connection.msgtype), connection.msgtype)

    def _decode(self, message: Any, kind: str) -> RawImage:
        stamp = message.header.stamp
        try:
            if kind == COMPRESSED:
                image = decode_compressed(message.data)
            else:
                image = decode_image(
                    message.encoding,
                    message.height,
                    message.width,
                    message.step,
                    bool(message.is_bigendian),
                    message.data,
                )
        except EncodingError as error:
            raise SequenceError(f"{self.name} {self.topic}: {error}") from error
        return RawImage(stamp.sec * 1_000_000_000 + stamp.nanosec, image)

    def _open(self) -> AnyReader:
        # bags without message definitions fall back to the newest distribution's
        try:
            return AnyReader([self.path], default_typestore=get_typestore(Stores.LATEST))
        except AnyReaderError as error:
            raise SequenceError(f"{self.path} cannot be read as a rosbag2: {error}") from error

    def _choose(self, topics: dict[str, str], wanted: str, everything: list[str]) -> str:
        if wanted:
            if wanted not in topics:
                raise SequenceError(f"{self.name} has no image topic {wanted}; it has {topics}")
            return wanted
        if not topics:
            listed = ", ".join(everything) or "no topics at all"
            raise SequenceError(f"{self.name} holds no images; its topics: {listed}")
        if len(topics) > 1:
            raise SequenceError(
                f"{self.name} has several image topics, choose one with --topic: "
                + ", ".join(topics)
            )
        return next(iter(topics))

    def _camera(self, bag: AnyReader) -> Camera | None:
        """The CameraInfo of the image's namespace, or the only one; uncalibrated ones are none."""
        space = self.topic.removesuffix("/compressed").rpartition("/")[0]
        infos = [c for c in bag.connections if c.msgtype == INFO]
        beside = [c for c in infos if c.topic.rpartition("/")[0] == space] or infos
        if not beside:
            return None
        for connection, _, data in bag.messages(beside[:1]):
            return camera_of_info(bag.deserialize(data, connection.msgtype))
        return None


def camera_of_info(info: Any) -> Camera | None:
    """A CameraInfo's calibration, None for an uncalibrated camera (K is zero); ROS pixel centres
    are integers, ours half-integers. Raises EncodingError for a model that is not known."""
    K = np.array(info.K if hasattr(info, "K") else info.k, dtype=np.float64).reshape(3, 3)
    if K[0, 0] <= 0 or K[1, 1] <= 0:
        return None
    K[:2, 2] += 0.5
    distortion = np.array(info.D if hasattr(info, "D") else info.d, dtype=np.float64)
    model = info.distortion_model
    if model not in MODELS and distortion.any():
        raise EncodingError(f"distortion_model must be one of {', '.join(MODELS)}, got {model!r}")
    fisheye = model in FISHEYE
    return Camera(int(info.width), int(info.height), K, distortion[: 4 if fisheye else 8], fisheye)
