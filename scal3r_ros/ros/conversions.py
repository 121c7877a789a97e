"""ROS messages to our values and back. Pure functions; stamps stay integers.

Messages have pixel centres at integers, we have them at half-integers: 0.5 is subtracted here on
the way out, and added on the way in, of a CameraInfo by `data.calibration.camera_of_info`.
"""

import array
from typing import Any

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Pose, TransformStamped
from jaxtyping import Float, Float32, UInt8
from nav_msgs.msg import Odometry
from numpy import ndarray
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2, PointField
from std_msgs.msg import Header

from scal3r_ros.data.encodings import (
    SUPPORTED,
    BitDepth,
    EncodingError,
    decode_compressed,
    decode_image,
)
from scal3r_ros.evaluation.render import colour_depth
from scal3r_ros.geometry.sim3 import Sim3
from scal3r_ros.mapping.point_map import Cloud
from scal3r_ros.ros.fallback.images import bridged

HALF_PIXEL = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
CLOUD_POINT = np.dtype([("xyz", "<f4", 3), ("rgb", "<u4"), ("confidence", "<f4")])
CLOUD_FIELDS = (("x", 0), ("y", 4), ("z", 8), ("rgb", 12), ("confidence", 16))


def to_ros_bytes(values: ndarray) -> array.array:
    """For `data` fields: rclpy takes an array.array in milliseconds, numpy in a second."""
    data = array.array("b" if values.dtype == np.int8 else "B")
    data.frombytes(memoryview(np.ascontiguousarray(values)).cast("B"))
    return data


def stamp_to_ns(stamp: Any) -> int:
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def ns_to_stamp(stamp_ns: int) -> Time:
    return Time(sec=stamp_ns // 1_000_000_000, nanosec=stamp_ns % 1_000_000_000)


def header(stamp_ns: int, frame_id: str) -> Header:
    return Header(stamp=ns_to_stamp(stamp_ns), frame_id=frame_id)


def image_to_rgb(message: Any, bits: BitDepth | None = None) -> UInt8[ndarray, "h w 3"]:
    """Pixels of an Image or a CompressedImage, of 16 bits those that the stream fills; raises
    EncodingError. Encodings that this package does not know are left to cv_bridge, where that is
    installed."""
    if hasattr(message, "format"):
        return decode_compressed(message.data, bits)
    if message.encoding not in SUPPORTED and (rare := bridged(message)) is not None:
        return rare
    return decode_image(
        message.encoding,
        message.height,
        message.width,
        message.step,
        bool(message.is_bigendian),
        message.data,
        bits,
    )


def rgb_to_image(image: UInt8[ndarray, "h w 3"], head: Header) -> Image:
    height, width = image.shape[:2]
    return Image(
        header=head,
        height=height,
        width=width,
        encoding="rgb8",
        step=3 * width,
        data=to_ros_bytes(image),
    )


def float_to_image(values: Float[ndarray, "h w"], head: Header) -> Image:
    """32FC1; 0 becomes NaN (REP 118: unknown)."""
    pixels = np.where(values == 0, np.nan, values).astype("<f4")
    height, width = pixels.shape
    return Image(
        header=head,
        height=height,
        width=width,
        encoding="32FC1",
        step=4 * width,
        data=to_ros_bytes(pixels),
    )


def checked_rows(message: Any, pixel_bytes: int) -> UInt8[ndarray, "h step"]:
    """The rows of an Image, whose sizes are not believed: raises EncodingError."""
    height, width, step = message.height, message.width, message.step
    if step < pixel_bytes * width or len(message.data) < height * step:
        raise EncodingError(
            f"an image of {height} rows of {step} bytes and {width} pixels of {pixel_bytes} bytes "
            f"does not fit its {len(message.data)} bytes"
        )
    return np.frombuffer(message.data, np.uint8)[: height * step].reshape(height, step)


def image_to_float(message: Any) -> Float32[ndarray, "h w"]:
    """A 32FC1 image with NaN as 0."""
    order = ">f4" if message.is_bigendian else "<f4"
    rows = checked_rows(message, 4)
    pixels = np.ascontiguousarray(rows[:, : 4 * message.width]).view(order)
    return np.nan_to_num(pixels.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)


def depth_to_jpeg(depth: Float32[ndarray, "h w"], head: Header) -> CompressedImage:
    """Near is red, far is blue, black is unknown; for people, over thin networks."""
    colours = cv2.cvtColor(colour_depth(depth), cv2.COLOR_RGB2BGR)
    _, jpeg = cv2.imencode(".jpg", colours)
    return CompressedImage(header=head, format="jpeg", data=to_ros_bytes(jpeg))


def image_to_depth(message: Any) -> Float32[ndarray, "h w"]:
    """A depth image (16UC1 millimetres or 32FC1 metres, REP 118) in metres, 0 = none."""
    if message.encoding == "32FC1":
        return image_to_float(message)
    if message.encoding not in ("16UC1", "mono16"):
        raise EncodingError(f"a depth image must be 16UC1 or 32FC1, got {message.encoding!r}")
    order = ">u2" if message.is_bigendian else "<u2"
    rows = checked_rows(message, 2)
    pixels = np.ascontiguousarray(rows[:, : 2 * message.width]).view(order)
    return pixels.astype(np.float32) / 1000


def K_to_numbers(K: Float[ndarray, "3 3"]) -> list[float]:
    """Row by row, pixel centres at integers."""
    return (K - HALF_PIXEL).flatten().tolist()


def numbers_to_K(numbers: Any) -> Float[ndarray, "3 3"]:
    return np.asarray(numbers, dtype=np.float64).reshape(3, 3) + HALF_PIXEL


def camera_to_info(
    K: Float[ndarray, "3 3"],
    height: int,
    width: int,
    head: Header,
    distortion: Float[ndarray, " d"] | None = None,
) -> CameraInfo:
    k = K - HALF_PIXEL
    projection = np.concatenate([k, np.zeros((3, 1))], axis=1)
    d = [] if distortion is None else distortion.tolist()
    return CameraInfo(
        header=head,
        height=height,
        width=width,
        distortion_model="rational_polynomial" if len(d) > 5 else "plumb_bob",
        d=d or [0.0] * 5,
        k=k.flatten().tolist(),
        r=np.eye(3).flatten().tolist(),
        p=projection.flatten().tolist(),
    )


def cloud_to_message(cloud: Cloud, head: Header) -> PointCloud2:
    points = np.zeros(len(cloud), CLOUD_POINT)
    red, green, blue = cloud.rgb.astype(np.uint32).T if len(cloud) else np.zeros((3, 0), np.uint32)
    points["xyz"], points["confidence"] = cloud.xyz, cloud.confidence
    points["rgb"] = (red << 16) | (green << 8) | blue
    fields = [
        PointField(name=name, offset=offset, datatype=PointField.FLOAT32, count=1)
        for name, offset in CLOUD_FIELDS
    ]
    return PointCloud2(
        header=head,
        height=1,
        width=len(cloud),
        fields=fields,
        is_bigendian=False,
        point_step=CLOUD_POINT.itemsize,
        row_step=CLOUD_POINT.itemsize * len(cloud),
        data=to_ros_bytes(points.view(np.uint8)),
        is_dense=True,
    )


def message_to_cloud(message: Any) -> Cloud:
    """A cloud that `cloud_to_message` wrote (of rclpy or of rosbags)."""
    if message.point_step != CLOUD_POINT.itemsize or len(message.data) % CLOUD_POINT.itemsize:
        raise ValueError(
            f"points of {CLOUD_POINT.itemsize} bytes expected, got {len(message.data)} bytes in "
            f"steps of {message.point_step}"
        )
    points = np.frombuffer(message.data, CLOUD_POINT)
    rgb = np.stack([(points["rgb"] >> shift) & 255 for shift in (16, 8, 0)], axis=1)
    return Cloud(points["xyz"].copy(), rgb.astype(np.uint8), points["confidence"].copy())


def matrix_to_pose(T: Float[ndarray, "4 4"]) -> Pose:
    pose = Pose()
    pose.position.x, pose.position.y, pose.position.z = T[:3, 3].tolist()
    quat_xyzw = Rotation.from_matrix(T[:3, :3]).as_quat().tolist()
    o = pose.orientation
    o.x, o.y, o.z, o.w = quat_xyzw
    return pose


def matrix_to_numbers(T: Float[ndarray, "4 4"]) -> list[float]:
    """x y z qx qy qz qw."""
    return [*T[:3, 3].tolist(), *Rotation.from_matrix(T[:3, :3]).as_quat().tolist()]


def pose_to_matrix(pose: Any) -> Float[ndarray, "4 4"]:
    T = np.eye(4)
    p, o = pose.position, pose.orientation
    T[:3, 3] = p.x, p.y, p.z
    T[:3, :3] = Rotation.from_quat([o.x, o.y, o.z, o.w]).as_matrix()
    return T


def matrix_to_transform(
    T_parent_child: Float[ndarray, "4 4"], stamp_ns: int, parent: str, child: str
) -> TransformStamped:
    message = TransformStamped(header=header(stamp_ns, parent), child_frame_id=child)
    pose = matrix_to_pose(T_parent_child)
    t = message.transform.translation
    t.x, t.y, t.z = pose.position.x, pose.position.y, pose.position.z
    message.transform.rotation = pose.orientation
    return message


def transform_to_matrix(transform: Any) -> Float[ndarray, "4 4"]:
    T = np.eye(4)
    t, r = transform.translation, transform.rotation
    T[:3, 3] = t.x, t.y, t.z
    T[:3, :3] = Rotation.from_quat([r.x, r.y, r.z, r.w]).as_matrix()
    return T


def odometry_message(
    T_odom_base: Float[ndarray, "4 4"],
    stamp_ns: int,
    odom_frame: str,
    base_frame: str,
    covariance: Float[ndarray, "6 6"],
) -> Odometry:
    """Covariance of (translation, rotation), as REP 105 users expect it."""
    message = Odometry(header=header(stamp_ns, odom_frame), child_frame_id=base_frame)
    message.pose.pose = matrix_to_pose(T_odom_base)
    message.pose.covariance = covariance.flatten().tolist()
    return message


def sim3_to_list(T: Sim3) -> list[float]:
    """scale, tx ty tz, qx qy qz qw."""
    return [T.s, *T.t.tolist(), *Rotation.from_matrix(T.R).as_quat().tolist()]


def list_to_sim3(values: Any) -> Sim3:
    v = np.asarray(values, dtype=np.float64)
    if v.shape != (8,) or not np.isfinite(v).all():
        raise ValueError(f"8 finite numbers are a Sim(3), got {v.tolist()}")
    return Sim3(Rotation.from_quat(v[4:8]).as_matrix(), v[1:4], float(v[0]))
