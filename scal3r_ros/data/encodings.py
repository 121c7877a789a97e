"""Pixels of sensor_msgs/Image and CompressedImage, without ROS: bytes in, RGB out."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8, UInt16
from numpy import ndarray

# encoding -> (channels, bytes per channel, OpenCV conversion to RGB or None)
PLAIN = {
    "rgb8": (3, 1, None),
    "8UC3": (3, 1, cv2.COLOR_BGR2RGB),
    "bgr8": (3, 1, cv2.COLOR_BGR2RGB),
    "rgba8": (4, 1, cv2.COLOR_RGBA2RGB),
    "bgra8": (4, 1, cv2.COLOR_BGRA2RGB),
    "8UC4": (4, 1, cv2.COLOR_BGRA2RGB),
    "mono8": (1, 1, cv2.COLOR_GRAY2RGB),
    "8UC1": (1, 1, cv2.COLOR_GRAY2RGB),
    "mono16": (1, 2, cv2.COLOR_GRAY2RGB),
    "16UC1": (1, 2, cv2.COLOR_GRAY2RGB),
    "rgb16": (3, 2, None),
    "bgr16": (3, 2, cv2.COLOR_BGR2RGB),
    # OpenCV names a Bayer pattern by its second row's pixels, ROS by the first two
    "bayer_rggb8": (1, 1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr8": (1, 1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": (1, 1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": (1, 1, cv2.COLOR_BayerGB2RGB),
    "bayer_rggb16": (1, 2, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr16": (1, 2, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg16": (1, 2, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg16": (1, 2, cv2.COLOR_BayerGB2RGB),
    "yuv422": (2, 1, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": (2, 1, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": (2, 1, cv2.COLOR_YUV2RGB_YUY2),
    "yuyv": (2, 1, cv2.COLOR_YUV2RGB_YUY2),
}
SUPPORTED = (*PLAIN, "nv12")


SENSOR_BITS = (8, 10, 12, 14, 16)
MAX_PIXELS = 1 << 27  # of a compressed image
ANY_DEPTH = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
MAX_HEADER = 1 << 20  # bytes in which a JPEG tells its size
PNG = b"\x89PNG\r\n\x1a\n"


class EncodingError(ValueError):
    """An image that cannot be decoded; the message says what was expected."""


@dataclass
class BitDepth:
    """How many of 16 bits a stream of images fills: a camera's 10 or 12 are often the lower ones.
    Found from the brightest pixel so far, so that all images share it and it changes seldom."""

    filled: int = SENSOR_BITS[0]  # only grows

    def upper_byte(self, pixels: UInt16[ndarray, "*shape"]) -> UInt8[ndarray, "*shape"]:
        brightest = int(pixels.max(initial=0))
        found = next(bits for bits in SENSOR_BITS if brightest < 1 << bits)
        self.filled = max(self.filled, found)
        return (pixels >> (self.filled - 8)).astype(np.uint8)


def decode_image(
    encoding: str,
    height: int,
    width: int,
    step: int,
    is_bigendian: bool,
    data: object,
    bits: BitDepth | None = None,
) -> UInt8[ndarray, "h w 3"]:
    """RGB of a raw image message; rows may be padded (`step`), of 16 bits the upper 8 are kept that
    the stream's `bits` has, of all where it is not given."""
    buffer = np.frombuffer(data, np.uint8)
    if height <= 0 or width <= 0:
        raise EncodingError(f"image size must be positive, got {width} x {height}")
    if encoding == "nv12":
        rows = _rows(buffer, height * 3 // 2, width, step)
        return _converted(np.ascontiguousarray(rows), cv2.COLOR_YUV2RGB_NV12, encoding)
    if encoding not in PLAIN:
        raise EncodingError(f"encoding must be one of {', '.join(SUPPORTED)}, got {encoding!r}")
    channels, size, conversion = PLAIN[encoding]
    rows = _rows(buffer, height, width * channels * size, step)
    if size == 2:
        order = ">u2" if is_bigendian else "<u2"
        bits = bits or BitDepth(16)
        rows = bits.upper_byte(np.ascontiguousarray(rows).view(order).astype(np.uint16))
    shape = (height, width) if channels == 1 else (height, width, channels)
    pixels = np.ascontiguousarray(rows).reshape(shape)
    return pixels if conversion is None else _converted(pixels, conversion, encoding)


def _converted(pixels: ndarray, conversion: int, encoding: str) -> UInt8[ndarray, "h w 3"]:
    try:
        return np.asarray(cv2.cvtColor(pixels, conversion))
    except cv2.error as error:
        size = f"{pixels.shape[1]} x {pixels.shape[0]}"
        told = f"{size} as {encoding} cannot be decoded: {error.err or error}"
        raise EncodingError(told) from error


def _rows(
    buffer: UInt8[ndarray, " n"], height: int, row_bytes: int, step: int
) -> UInt8[ndarray, "h b"]:
    step = step or row_bytes
    if step < row_bytes or len(buffer) < step * (height - 1) + row_bytes:
        raise EncodingError(
            f"image of {height} rows of {row_bytes} bytes (step {step}) "
            f"needs {step * (height - 1) + row_bytes} bytes, got {len(buffer)}"
        )
    padded = np.zeros(step * height, np.uint8)
    padded[: min(len(buffer), len(padded))] = buffer[: len(padded)]
    return padded.reshape(height, step)[:, :row_bytes]


def decode_compressed(data: object, bits: BitDepth | None = None) -> UInt8[ndarray, "h w 3"]:
    """RGB of a JPEG or PNG, of 16 bits as `decode_image`. One that claims to be huge is refused
    before it is unpacked."""
    buffer = np.frombuffer(data, np.uint8)
    width, height = claimed_size(buffer[:MAX_HEADER].tobytes())
    if width * height > MAX_PIXELS:
        raise EncodingError(f"images have at most {MAX_PIXELS} pixels, got {width} x {height}")
    failed = EncodingError(f"compressed image of {len(buffer)} bytes cannot be decoded")
    try:
        pixels = cv2.imdecode(buffer, ANY_DEPTH) if len(buffer) else None
    except cv2.error as error:
        raise failed from error
    if pixels is None:
        raise failed
    return to_rgb(pixels, bits or BitDepth(16))


def to_rgb(bgr: ndarray, bits: BitDepth) -> UInt8[ndarray, "h w 3"]:
    """What OpenCV reads with ANY_DEPTH."""
    if bgr.dtype == np.uint16:
        bgr = bits.upper_byte(bgr)
    if bgr.dtype != np.uint8:
        raise EncodingError(f"an image must have 8 or 16 bits, got {bgr.dtype}")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))


def claimed_size(head: bytes) -> tuple[int, int]:
    """(width, height) that a PNG or JPEG says it has; zeros where it says none."""
    if head.startswith(PNG) and len(head) >= 24:
        return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
    at = 2 if head.startswith(b"\xff\xd8") else len(head)
    while at + 9 <= len(head) and head[at] == 0xFF:
        marker, length = head[at + 1], int.from_bytes(head[at + 2 : at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of a frame
            height, width = head[at + 5 : at + 7], head[at + 7 : at + 9]
            return int.from_bytes(width, "big"), int.from_bytes(height, "big")
        at += 2 + length if marker != 0xFF else 1
    return 0, 0
