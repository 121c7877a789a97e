"""Every encoding against one picture, with padded rows and both byte orders."""

import cv2
import numpy as np
import pytest

from scal3r_ros.data.encodings import (
    EncodingError,
    claimed_size,
    decode_compressed,
    decode_image,
)

H, W = 8, 12


@pytest.fixture
def rgb() -> np.ndarray:
    """Smooth, so that subsampled colours and Bayer interpolation come close."""
    v, u = np.mgrid[:H, :W]
    return np.stack([60 + 10 * u, 60 + 12 * v, 200 - 8 * u], axis=2).astype(np.uint8)


def padded(pixels: np.ndarray, pad: int = 5) -> tuple[int, bytes]:
    rows = pixels.reshape(len(pixels), -1).view(np.uint8)
    return rows.shape[1] + pad, np.pad(rows, ((0, 0), (0, pad)), constant_values=77).tobytes()


@pytest.mark.parametrize(
    ("encoding", "order"),
    [
        ("rgb8", [0, 1, 2]),
        ("bgr8", [2, 1, 0]),
        ("8UC3", [2, 1, 0]),
        ("rgba8", [0, 1, 2, 0]),
        ("bgra8", [2, 1, 0, 0]),
    ],
)
def test_colour_orders(rgb, encoding, order):
    step, data = padded(np.ascontiguousarray(rgb[..., order]))
    np.testing.assert_array_equal(decode_image(encoding, H, W, step, False, data), rgb)


@pytest.mark.parametrize("big", [False, True])
def test_sixteen_bit_grey_keeps_the_upper_byte(big):
    grey = np.arange(H * W, dtype=np.uint16).reshape(H, W) * 600
    step, data = padded(grey.astype(">u2" if big else "<u2"))
    image = decode_image("mono16", H, W, step, big, data)
    np.testing.assert_array_equal(image[..., 1], grey >> 8)


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_mosaics_come_back_in_colour(rgb, pattern):
    mosaic = np.zeros((H, W), np.uint8)
    for k, colour in enumerate(pattern):
        rows, columns = slice(k // 2, None, 2), slice(k % 2, None, 2)
        mosaic[rows, columns] = rgb[rows, columns, "rgb".index(colour)]
    step, data = padded(mosaic)
    image = decode_image(f"bayer_{pattern}8", H, W, step, False, data)
    error = np.abs(image[2:-2, 2:-2].astype(int) - rgb[2:-2, 2:-2])
    assert error.max() <= 2


@pytest.mark.parametrize(("encoding", "layout"), [("uyvy", "uyvy"), ("yuyv", "yuyv")])
def test_yuv_with_half_the_colours(rgb, encoding, layout):
    y, u, v = cv2.split(cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV))
    # OpenCV's packed conversions are studio range: 16..235
    y = (16 + y * (219 / 255)).round().astype(np.uint8)
    u, v = ((128 + (c.astype(float) - 128) * k).round() for c, k in ((u, 1.0), (v, 0.93)))
    packed = np.zeros((H, W, 2), np.uint8)
    luma = layout.index("y")
    packed[..., luma] = y
    packed[:, 0::2, 1 - luma], packed[:, 1::2, 1 - luma] = u[:, ::2], v[:, ::2]
    step, data = padded(packed)
    image = decode_image(encoding, H, W, step, False, data)
    assert np.abs(image.astype(int) - rgb).mean() < 14  # red is red, blue blue
    assert np.corrcoef(image[..., 0].ravel(), rgb[..., 0].ravel())[0, 1] > 0.95


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("jpeg2000", H, W, 0, False, b"x" * 999), "encoding must be one of rgb8"),
        (("rgb8", H, W, 0, False, b"x" * 20), "needs 288 bytes, got 20"),
        (("rgb8", 0, W, 0, False, b""), "must be positive, got 12 x 0"),
        (("yuyv", H, 5, 0, False, b"x" * 999), f"5 x {H} as yuyv cannot be decoded"),
    ],
)
def test_what_cannot_be_decoded_says_what_was_expected(arguments, said):
    with pytest.raises(EncodingError, match=said):
        decode_image(*arguments)


def test_compressed_images(rgb):
    png = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1].tobytes()
    np.testing.assert_array_equal(decode_compressed(png), rgb)
    with pytest.raises(EncodingError, match="cannot be decoded"):
        decode_compressed(b"\xff\xd8broken")
    with pytest.raises(EncodingError, match="cannot be decoded"):
        decode_compressed(b"P5 70000 70000 255\n" + b"x" * 99)


@pytest.mark.parametrize("ending", [".png", ".jpg"])
def test_a_compressed_image_that_claims_to_be_huge_is_not_unpacked(rng, ending):
    pixels = rng.integers(0, 256, (48, 64, 3)).astype(np.uint8)
    data = cv2.imencode(ending, pixels)[1].tobytes()
    assert claimed_size(data) == (64, 48)
    size = (48).to_bytes(2, "big") + (64).to_bytes(2, "big")
    if ending == ".png":
        size = (64).to_bytes(4, "big") + (48).to_bytes(4, "big")
    assert data.count(size) == 1
    huge = data.replace(size, b"\xf0" * len(size) if ending == ".jpg" else b"\0\xff\xff\xff" * 2)
    with pytest.raises(EncodingError, match="at most 134217728 pixels, got"):
        decode_compressed(huge)
    assert claimed_size(b"") == claimed_size(b"\xff\xd8\xff") == (0, 0)
