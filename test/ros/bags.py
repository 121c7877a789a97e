"""Bags as other people's cameras record them."""

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from scal3r_ros.mapping.types import Frame

STORE = get_typestore(Stores.ROS2_HUMBLE)
START_NS = 1_700_000_000_123_456_789


def message(kind: str, **fields):
    return STORE.types[kind](**fields)


def header(stamp_ns: int, frame_id: str):
    stamp = message("builtin_interfaces/msg/Time", sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return message("std_msgs/msg/Header", stamp=stamp, frame_id=frame_id)


def vector(xyz):
    x, y, z = map(float, xyz)
    return message("geometry_msgs/msg/Vector3", x=x, y=y, z=z)


def point(xyz):
    x, y, z = map(float, xyz)
    return message("geometry_msgs/msg/Point", x=x, y=y, z=z)


def quaternion(xyzw):
    x, y, z, w = map(float, xyzw)
    return message("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w)


class BagOfACamera:
    """Writes images in a given encoding, and whatever else a robot says."""

    def __init__(self, path: Path, *, plugin: StoragePlugin = StoragePlugin.SQLITE3) -> None:
        version = 9 if plugin == StoragePlugin.MCAP else 8
        self.writer = Writer(path, version=version, storage_plugin=plugin)
        self.connections = {}

    def __enter__(self) -> "BagOfACamera":
        self.writer.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.writer.close()

    def write(self, topic: str, stamp_ns: int, content) -> None:
        kind = content.__msgtype__
        if topic not in self.connections:
            self.connections[topic] = self.writer.add_connection(topic, kind, typestore=STORE)
        data = STORE.serialize_cdr(content, kind)
        self.writer.write(self.connections[topic], stamp_ns, data)

    def images(self, frames: Iterable[Frame], encoding: str, topic: str, period_ns: int) -> None:
        for frame in frames:
            stamp_ns = START_NS + frame.index * period_ns
            self.write(topic, stamp_ns, image(frame.image, encoding, stamp_ns))

    def info(self, frame: Frame, topic: str) -> None:
        K = frame.K.copy()
        K[:2, 2] -= 0.5
        height, width = frame.image.shape[:2]
        roi = message(
            "sensor_msgs/msg/RegionOfInterest",
            x_offset=0, y_offset=0, height=0, width=0, do_rectify=False,
        )  # fmt: skip
        content = message(
            "sensor_msgs/msg/CameraInfo",
            header=header(START_NS, "camera_optical_frame"),
            height=height,
            width=width,
            distortion_model="plumb_bob",
            d=np.zeros(5),
            k=K.flatten(),
            r=np.eye(3).flatten(),
            p=np.concatenate([K, np.zeros((3, 1))], axis=1).flatten(),
            binning_x=0,
            binning_y=0,
            roi=roi,
        )
        self.write(topic, START_NS, content)


def image(rgb: np.ndarray, encoding: str, stamp_ns: int):
    head = header(stamp_ns, "camera_optical_frame")
    height, width = rgb.shape[:2]
    if encoding == "jpeg":
        _, data = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
        kind = "sensor_msgs/msg/CompressedImage"
        return message(kind, header=head, format="jpeg", data=data.reshape(-1))
    pixels = {
        "rgb8": rgb,
        "bgr8": rgb[..., ::-1],
        "mono8": cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY),
        "bayer_rggb8": mosaic(rgb),
    }[encoding]
    pixels = np.ascontiguousarray(pixels)
    return message(
        "sensor_msgs/msg/Image",
        header=head,
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=pixels.strides[0],
        data=pixels.reshape(-1).view(np.uint8),
    )


def mosaic(rgb: np.ndarray) -> np.ndarray:
    """What a sensor with a red, green, green, blue filter sees."""
    grey = rgb[..., 1].copy()
    grey[::2, ::2] = rgb[::2, ::2, 0]
    grey[1::2, 1::2] = rgb[1::2, 1::2, 2]
    return grey


def odometry(stamp_ns: int, T: np.ndarray):
    from scipy.spatial.transform import Rotation

    pose = message(
        "geometry_msgs/msg/Pose",
        position=point(T[:3, 3]),
        orientation=quaternion(Rotation.from_matrix(T[:3, :3]).as_quat()),
    )
    twist = message("geometry_msgs/msg/Twist", linear=vector([0] * 3), angular=vector([0] * 3))
    return message(
        "nav_msgs/msg/Odometry",
        header=header(stamp_ns, "odom"),
        child_frame_id="base_link",
        pose=message("geometry_msgs/msg/PoseWithCovariance", pose=pose, covariance=np.zeros(36)),
        twist=message(
            "geometry_msgs/msg/TwistWithCovariance", twist=twist, covariance=np.zeros(36)
        ),
    )


def transforms(stamp_ns: int, T: np.ndarray, parent: str, child: str):
    """One, as on /tf and /tf_static."""
    from scipy.spatial.transform import Rotation

    transform = message(
        "geometry_msgs/msg/Transform",
        translation=vector(T[:3, 3]),
        rotation=quaternion(Rotation.from_matrix(T[:3, :3]).as_quat()),
    )
    stamped = message(
        "geometry_msgs/msg/TransformStamped",
        header=header(stamp_ns, parent),
        child_frame_id=child,
        transform=transform,
    )
    return message("tf2_msgs/msg/TFMessage", transforms=[stamped])
