"""Folders, videos and bags give the same frames; bad input is refused in one line."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from scal3r_ros.data.encodings import BitDepth
from scal3r_ros.data.folder import natural_order, read_image, stamp_ns
from scal3r_ros.data.rosbag import Bag
from scal3r_ros.data.sequence import SequenceError, open_sequence
from scal3r_ros.data.sequence_folder import (
    SensorSequence,
    StereoRig,
    files_beside,
    read_depth,
    write_sequence,
)
from scal3r_ros.data.tum import read_trajectory

STORE = get_typestore(Stores.ROS2_HUMBLE)
HEIGHT, WIDTH, COUNT = 24, 32, 5
STAMPS = [1_700_000_000_000_000_073 + i * 33_333_333 for i in range(COUNT)]


def pictures() -> list[np.ndarray]:
    """Distinct, with red growing to the right and green downwards."""
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    return [
        np.stack([u * 7, v * 9, np.full_like(u, 40 * i)], axis=2).astype(np.uint8)
        for i in range(COUNT)
    ]


def write_bag(
    path: Path, plugin: StoragePlugin, *, compressed: bool, calibrated: bool, enlarged: int = 1
) -> None:
    kinds = STORE.types
    header, time = kinds["std_msgs/msg/Header"], kinds["builtin_interfaces/msg/Time"]
    with Writer(path, version=8, storage_plugin=plugin) as bag:
        suffix, kind = ("/compressed", "CompressedImage") if compressed else ("", "Image")
        images = bag.add_connection(
            f"/cam/image{suffix}", f"sensor_msgs/msg/{kind}", typestore=STORE
        )
        infos = bag.add_connection(
            "/cam/camera_info", "sensor_msgs/msg/CameraInfo", typestore=STORE
        )
        other = bag.add_connection("/chatter", "std_msgs/msg/String", typestore=STORE)
        text = kinds["std_msgs/msg/String"]("hello")
        bag.write(other, 1, STORE.serialize_cdr(text, "std_msgs/msg/String"))
        for stamp, rgb in zip(STAMPS, pictures(), strict=True):
            head = header(time(stamp // 10**9, stamp % 10**9), "cam")
            bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR).repeat(enlarged, 0).repeat(enlarged, 1)
            height, width = bgr.shape[:2]
            if compressed:
                data = cv2.imencode(".png", bgr)[1].ravel()
                message = kinds["sensor_msgs/msg/CompressedImage"](head, "png", data)
            else:
                message = kinds["sensor_msgs/msg/Image"](
                    head, height, width, "bgr8", 0, 3 * width, bgr.ravel()
                )
            kind_name = f"sensor_msgs/msg/{kind}"
            bag.write(images, stamp, STORE.serialize_cdr(message, kind_name))
            if calibrated:
                bag.write(infos, stamp, STORE.serialize_cdr(info(head), INFO))


INFO = "sensor_msgs/msg/CameraInfo"


def info(head):
    kinds = STORE.types
    roi = kinds["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    k = np.array([30.0, 0, 15.5, 0, 30.0, 11.5, 0, 0, 1])
    return kinds[INFO](
        head, HEIGHT, WIDTH, "plumb_bob", np.zeros(5), k, np.eye(3).ravel(), np.zeros(12), 0, 0, roi
    )


def write_folder(path: Path, suffix: str = ".png") -> None:
    (path / "images").mkdir(parents=True)
    for i, rgb in enumerate(pictures()):
        cv2.imwrite(str(path / "images" / f"{i}{suffix}"), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))


@pytest.mark.parametrize("plugin", list(StoragePlugin))
@pytest.mark.parametrize("compressed", [False, True])
def test_bags_give_colours_stamps_and_calibration(tmp_path, plugin, compressed):
    write_bag(tmp_path / "bag", plugin, compressed=compressed, calibrated=True)
    frames = list(open_sequence(tmp_path / "bag"))
    assert [f.stamp_ns for f in frames] == STAMPS  # to the nanosecond
    for frame, rgb in zip(frames, pictures(), strict=True):
        np.testing.assert_array_equal(frame.image, rgb)
    np.testing.assert_allclose(frames[0].K[:2, 2], [16.0, 12.0])  # half-integer centres


def test_a_folder_with_times_and_camera(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "times.txt").write_text("".join(f"{s / 1e9:.3f}\n" for s in range(1, 6)))
    (tmp_path / "times.txt").write_text("\n".join(f"1.{i}00000073" for i in range(COUNT)))
    (tmp_path / "camera.yaml").write_text(
        "width: 32\nheight: 24\nfx: 30\nfy: 30\ncx: 15.5\ncy: 11.5\n"
    )
    frames = list(open_sequence(tmp_path))
    assert [f.stamp_ns for f in frames][:2] == [1_000_000_073, 1_100_000_073]
    np.testing.assert_array_equal(frames[3].image, pictures()[3])
    np.testing.assert_allclose(frames[0].K[:2, 2], [16.0, 12.0])


def test_bare_images_get_nominal_stamps_and_no_calibration(tmp_path):
    write_folder(tmp_path)
    frames = list(open_sequence(tmp_path / "images"))
    assert [f.stamp_ns for f in frames] == [i * 10**8 for i in range(COUNT)]
    assert frames[0].K is None


def test_a_video(tmp_path):
    path = str(tmp_path / "v.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (64, 48))
    for i in range(6):
        writer.write(np.full((48, 64, 3), (0, 0, 40 * i), np.uint8))  # BGR: red
    writer.release()
    frames = list(open_sequence(Path(path)))
    assert len(frames) == 6
    assert frames[5].stamp_ns - frames[4].stamp_ns == 40_000_000
    assert frames[5].image[20, 20, 0] > 150 > 60 > frames[5].image[20, 20, 2]


def test_distortion_is_removed(tmp_path):
    """A point that OpenCV distorts comes back to where the pinhole has it."""
    K_cv = np.array([[100.0, 0, 79.5], [0, 100.0, 59.5], [0, 0, 1]])
    coefficients = np.array([-0.25, 0.05, 0.001, -0.001, 0.0])
    xyz = np.array([[0.5, 0.35, 1.0]])
    at = cv2.projectPoints(xyz, np.zeros(3), np.zeros(3), K_cv, coefficients)[0][0, 0]
    image = np.zeros((120, 160, 3), np.uint8)
    cv2.circle(image, tuple(round(16 * v) for v in at), 40, (255, 255, 255), -1, shift=4)
    (tmp_path / "images").mkdir()
    for i in range(2):
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), image)
    (tmp_path / "camera.yaml").write_text(
        "width: 160\nheight: 120\nfx: 100\nfy: 100\ncx: 79.5\ncy: 59.5\n"
        f"distortion_model: plumb_bob\ndistortion_coefficients: {coefficients.tolist()}\n"
    )
    frame = next(iter(open_sequence(tmp_path)))
    rows, columns = np.nonzero(frame.image[..., 0] > 100)
    found = np.array([columns.mean(), rows.mean()]) + 0.5
    expected = xyz[0, :2] * 100 + frame.K[:2, 2]
    np.testing.assert_allclose(found, expected, atol=0.3)


def test_stamps_keep_every_nanosecond_and_names_their_order():
    assert stamp_ns("1403636579.763555073", "") == 1_403_636_579_763_555_073
    names = ["image10.png", "image2.png", "image1.png"]
    assert sorted(names, key=lambda n: natural_order(Path(n))) == names[::-1]


def empty(path: Path) -> None:
    path.mkdir()


def one_image(path: Path) -> None:
    path.mkdir()
    cv2.imwrite(str(path / "a.png"), pictures()[0])


def broken_images(path: Path) -> None:
    write_folder(path)
    for file in (path / "images").iterdir():
        file.write_bytes(b"no image at all")


def stopped_clock(path: Path) -> None:
    write_folder(path)
    (path / "times.txt").write_text("1.5\n" * COUNT)


def short_times(path: Path) -> None:
    write_folder(path)
    (path / "times.txt").write_text("1.0\n2.0\n")


def bag_without_images(path: Path) -> None:
    with Writer(path, version=8) as bag:
        text = bag.add_connection("/chatter", "std_msgs/msg/String", typestore=STORE)
        message = STORE.types["std_msgs/msg/String"]("hello")
        bag.write(text, 1, STORE.serialize_cdr(message, "std_msgs/msg/String"))


def text_file(path: Path) -> None:
    path.write_text("hello")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (empty, "holds no images"),
        (one_image, "at least 2 images are needed, got 1"),
        (broken_images, "5 of 5 images cannot be used; image 0: .*0.png cannot be read"),
        (stopped_clock, "4 of 5 images cannot be used; image 1: stamps must increase, got 1500"),
        (short_times, "5 images, 2 lines"),
        (bag_without_images, "holds no images; its topics: /chatter"),
        (text_file, "must be a folder of images, a video"),
        (lambda path: None, "does not exist"),
    ],
)
def test_bad_input_is_refused_with_what_was_expected(tmp_path, make, said):
    make(tmp_path / "input")
    with pytest.raises(SequenceError, match=said):
        list(open_sequence(tmp_path / "input"))


def halved(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def scrambled(path: Path) -> None:
    """Opens, but its messages do not make sense: an encoding that is no text."""
    data = path.read_bytes()
    assert data.count(b"bgr8") == COUNT
    path.write_bytes(data.replace(b"bgr8", b"\xff" * 4))


def text(path: Path) -> None:
    path.write_text("hello")


@pytest.mark.parametrize("plugin", list(StoragePlugin))
@pytest.mark.parametrize("damage", [halved, scrambled, text])
@pytest.mark.parametrize("alone", [False, True])
def test_a_damaged_bag_is_named_with_what_is_wrong_in_one_line(tmp_path, plugin, damage, alone):
    bag = tmp_path / "bag"
    write_bag(bag, plugin, compressed=False, calibrated=True)
    file = next(path for path in bag.iterdir() if path.suffix != ".yaml")
    damage(file)
    with pytest.raises(SequenceError, match=r"bag.* cannot be read as a rosbag2: \w+") as raised:
        list(open_sequence(file if alone else bag))
    assert "\n" not in str(raised.value)


def test_of_a_bag_that_is_damaged_midway_the_images_before_are_read(tmp_path, caplog):
    bag = tmp_path / "bag"
    write_bag(bag, StoragePlugin.SQLITE3, compressed=False, calibrated=False, enlarged=5)
    file = next(bag.glob("*.db3"))
    data = bytearray(file.read_bytes())
    page = int.from_bytes(data[16:18], "big")
    middle = len(data) // page * 7 // 10 * page  # of the fourth image
    data[middle : middle + page] = b"\xff" * page
    file.write_bytes(data)
    assert [f.stamp_ns for f in open_sequence(bag)] == list(STAMPS[:3])
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(f"{bag} cannot be read as a rosbag2: ")
    assert caplog.messages[0].endswith("malformed; the 3 messages before it are used")


def test_a_metadata_file_of_somebody_else_does_not_make_a_bag(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "metadata.yaml").write_text("camera: hand-held\n")
    assert len(open_sequence(tmp_path)) == COUNT
    with pytest.raises(SequenceError, match="is no rosbag2.* are for `scal3r map`"):
        Bag(tmp_path)
    (tmp_path / "metadata.yaml").write_text("rosbag2_bagfile_information: [broken\n")
    with pytest.raises(SequenceError, match="cannot be read as a rosbag2"):
        open_sequence(tmp_path)


def test_a_written_sequence_is_read_back_to_the_nanosecond_and_the_half_pixel(tmp_path, rng):
    """Stamps of today, that a float would change, and K, whose centre the file counts otherwise."""
    stamps = [1_790_000_000_123_456_789 + 100_000_007 * i for i in range(3)]
    images = rng.integers(0, 255, (3, 12, 16, 3), np.uint8)
    K = np.array([[20.0, 0, 8.25], [0, 21.0, 5.75], [0, 0, 1]])
    depth = np.float32([0.0, 1.5, 3.25])[:, None, None] * np.ones((12, 16), np.float32)
    T = np.tile(np.eye(4), (3, 1, 1))
    rig = StereoRig(0.1, images[:, :, ::-1].copy(), depth)
    write_sequence(tmp_path, images, T, stamps, K, rig)
    frames = list(open_sequence(tmp_path))
    assert [f.stamp_ns for f in frames] == stamps
    assert list(read_trajectory(tmp_path / "groundtruth.txt")) == stamps
    rights, depths = files_beside(tmp_path, "right"), files_beside(tmp_path, "depth")
    for i, frame in enumerate(frames):
        np.testing.assert_allclose(frame.K, K, atol=1e-9)
        np.testing.assert_array_equal(frame.image, images[i])
        np.testing.assert_array_equal(read_image(rights[i], BitDepth()), rig.right[i])
        np.testing.assert_allclose(read_depth(depths[i]), depth[i])


def test_depth_and_right_images_are_those_of_the_same_name(tmp_path, rng):
    """Whatever the first number is; depth of every second image alone is enough."""
    images = rng.integers(0, 255, (4, 12, 16, 3), np.uint8)
    depth = np.arange(1, 5, dtype=np.float32)[:, None, None] * np.ones((12, 16), np.float32)
    K, T = np.array([[20.0, 0, 8], [0, 20, 6], [0, 0, 1]]), np.tile(np.eye(4), (4, 1, 1))
    stamps = [i * 10**8 for i in range(4)]
    write_sequence(tmp_path, images, T, stamps, K, StereoRig(0.1, images, depth))
    for kind in ("images", "depth", "right"):
        for i in reversed(range(4)):
            path = tmp_path / kind / f"{i:06d}.png"
            path.rename(path.with_name(f"left {i + 1}.png"))
    for i in (1, 3):
        (tmp_path / "depth" / f"left {i + 1}.png").unlink()
    frames = list(SensorSequence(tmp_path, "depth"))
    assert [None if f.depth is None else f.depth.max() for f in frames] == [1, None, 3, None]
    for frame, image in zip(SensorSequence(tmp_path, "stereo"), images, strict=True):
        np.testing.assert_array_equal(frame.right, image)
    (tmp_path / "right" / "left 2.png").unlink()
    with pytest.raises(SequenceError, match="right must have all images, has 3"):
        SensorSequence(tmp_path, "stereo")
    for i in (0, 2):
        path = tmp_path / "depth" / f"left {i + 1}.png"
        path.rename(path.with_name(f"{i:06d}.png"))
    with pytest.raises(SequenceError, match="depth holds no image of the same name"):
        SensorSequence(tmp_path, "depth")
