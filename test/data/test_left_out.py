"""One bad image does not end a sequence: it is left out, counted and told of, as by the nodes."""

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin

from scal3r_ros.data.sequence import open_sequence
from scal3r_ros.data.sequence_folder import SensorSequence
from test.data.test_sequence import COUNT, WIDTH, write_bag, write_folder

CAMERA = f"width: {WIDTH}\nheight: 24\nfx: 30\nfy: 30\ncx: 15.5\ncy: 11.5\n"


def indices(sequence) -> list[int]:
    return [frame.index for frame in sequence]


def test_what_cannot_be_used_is_left_out_and_told_once(tmp_path, caplog):
    write_folder(tmp_path)
    (tmp_path / "images" / "2.png").write_bytes(b"no image at all")
    (tmp_path / "images" / "._0.png").write_bytes(b"of macOS: not even counted")
    (tmp_path / "times.txt").write_text("0\n1\n2\n1\n4\n")
    sequence = open_sequence(tmp_path)
    assert (len(sequence), indices(sequence)) == (COUNT, [0, 1, 4])
    assert len(sequence.left_out) == 2
    (told,) = caplog.messages
    assert "2 of 5 images cannot be used, they are left out; image 2: " in told
    assert "2.png cannot be read as an image" in told
    assert "stamps must increase, got 1000000000 ns after 1000000000 ns" in sequence.left_out[1]


def test_of_another_size_than_the_camera_no_image_is_used_and_without_one_all_are(tmp_path):
    write_folder(tmp_path)
    image = tmp_path / "images" / "3.png"
    cv2.imwrite(str(image), np.zeros((10, 10, 3), np.uint8))
    assert indices(open_sequence(tmp_path)) == [0, 1, 2, 3, 4]  # the mapper begins a new piece
    (tmp_path / "camera.yaml").write_text(CAMERA)
    sequence = open_sequence(tmp_path)
    assert indices(sequence) == [0, 1, 2, 4]
    assert sequence.left_out == ["image 3: the camera is 32x24, the image 10x10"]


def test_a_message_that_makes_no_sense_is_left_out(tmp_path):
    write_bag(tmp_path / "bag", StoragePlugin.SQLITE3, compressed=False, calibrated=True)
    file = next((tmp_path / "bag").glob("*.db3"))
    file.write_bytes(file.read_bytes().replace(b"bgr8", b"bgr7", 1))
    sequence = open_sequence(tmp_path / "bag")
    assert len(indices(sequence)) == COUNT - 1
    assert "encoding must be one of" in sequence.left_out[0]


def test_an_image_whose_depth_cannot_be_read_or_is_of_another_view_has_none(tmp_path, caplog):
    write_folder(tmp_path)
    (tmp_path / "camera.yaml").write_text(CAMERA)
    (tmp_path / "depth").mkdir()
    for i in range(COUNT):
        cv2.imwrite(str(tmp_path / "depth" / f"{i}.png"), np.full((24, 32), 1000, np.uint16))
    (tmp_path / "depth" / "1.png").write_bytes(b"no image at all")
    cv2.imwrite(str(tmp_path / "depth" / "2.png"), np.full((12, 16), 1000, np.uint16))
    cv2.imwrite(str(tmp_path / "depth" / "3.png"), np.full((24, 24), 1000, np.uint16))
    sequence = SensorSequence(tmp_path, "depth")
    assert [f.depth is not None for f in sequence] == [True, False, True, False, True]
    assert f"{tmp_path}: 2 of 5 images go without their depth; {tmp_path}/depth/1" in caplog.text
    (tmp_path / "depth" / "1.png").unlink()
    sequence = SensorSequence(tmp_path, "depth")
    assert len(list(sequence)) == COUNT
    assert "3.png (24, 24) is not registered to an image (24, 32)" in caplog.text


def test_a_right_image_of_another_size_is_not_matched(tmp_path, caplog):
    write_folder(tmp_path)
    (tmp_path / "camera.yaml").write_text(CAMERA + "baseline: 0.1\n")
    (tmp_path / "right").mkdir()
    for i in range(COUNT):
        cv2.imwrite(str(tmp_path / "right" / f"{i}.png"), np.zeros((24, 32 + i // 4), np.uint8))
    sequence = SensorSequence(tmp_path, "stereo")
    assert [f.right is not None for f in sequence] == [True, True, True, True, False]
    assert "1 of 5 images go without their stereo; " in caplog.text
    assert "4.png must be as large as the left image (24, 32)" in caplog.text
