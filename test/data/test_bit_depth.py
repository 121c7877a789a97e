"""Cameras of 10 or 12 bits in 16-bit images: neither black nor of another brightness each time."""

import cv2
import numpy as np
import pytest

from scal3r_ros.data.encodings import BitDepth, decode_compressed, decode_image
from scal3r_ros.data.sequence import open_sequence

GREY = np.linspace(0, 255, 96).astype(np.uint16).reshape(8, 12)


def message(pixels: np.ndarray, encoding: str = "mono16") -> tuple:
    return encoding, *pixels.shape[:2], 0, False, pixels.astype("<u2").tobytes()


@pytest.mark.parametrize("filled", [8, 10, 12, 14, 16])
def test_the_upper_byte_is_of_what_the_camera_fills(tmp_path, filled):
    pixels = GREY << (filled - 8)
    image = decode_image(*message(pixels), BitDepth())
    np.testing.assert_array_equal(image[..., 1], GREY)
    png = cv2.imencode(".png", pixels)[1]
    np.testing.assert_array_equal(decode_compressed(png, BitDepth()), image)
    for i in range(2):
        cv2.imwrite(str(tmp_path / f"{i}.png"), pixels)
    np.testing.assert_array_equal(next(iter(open_sequence(tmp_path))).image, image)


def test_all_images_of_a_stream_share_it_and_it_only_grows():
    bits, dark = BitDepth(), GREY << 2
    bright = decode_image(*message(GREY << 4), bits)  # 12 bits
    assert bright.max() == 255
    np.testing.assert_array_equal(decode_image(*message(dark), bits)[..., 0], dark >> 4)
    decode_image(*message(GREY << 8), bits)
    np.testing.assert_array_equal(decode_image(*message(dark), bits)[..., 0], dark >> 8)


@pytest.mark.parametrize(("encoding", "order"), [("rgb16", [0, 1, 2]), ("bgr16", [2, 1, 0])])
def test_colours_of_sixteen_bits(rng, encoding, order):
    rgb = rng.integers(0, 255, (8, 12, 3), np.uint8)
    found = decode_image(*message(rgb[..., order].astype(np.uint16) << 8, encoding))
    np.testing.assert_array_equal(found, rgb)


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_mosaics_of_sixteen_bits_are_those_of_eight(rng, pattern):
    mosaic = rng.integers(0, 255, (8, 12), np.uint8)
    eight = decode_image(f"bayer_{pattern}8", 8, 12, 0, False, mosaic.tobytes())
    sixteen = message(mosaic.astype(np.uint16) << 8, f"bayer_{pattern}16")
    np.testing.assert_array_equal(decode_image(*sixteen), eight)
