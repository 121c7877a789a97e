"""Which images of a bag are read, and what is said of a bag that is not whole."""

import pytest
from rosbags.rosbag2 import StoragePlugin

from scal3r_ros.data.rosbag import COMPRESSED, RAW, Bag, BagImages
from scal3r_ros.data.sequence import SequenceError, open_sequence
from test.data.test_sequence import halved, write_bag


@pytest.fixture(params=StoragePlugin)
def bag(tmp_path, request):
    write_bag(tmp_path / "bag", request.param, compressed=False, calibrated=True)
    return tmp_path / "bag"


def test_a_topic_needs_no_slash(bag):
    assert len(open_sequence(bag, "cam/image")) == len(open_sequence(bag, "/cam/image")) == 5


def choose(bag, *topics):
    kinds = {topic: COMPRESSED if "compressed" in topic else RAW for topic in topics}
    return BagImages(bag)._choose(kinds, "", [])


def test_the_raw_images_are_taken_of_a_camera_that_is_there_raw_and_compressed(bag):
    assert choose(bag, "/a/image", "/a/image/compressed") == "/a/image"
    assert choose(bag, "/a/image/compressed") == "/a/image/compressed"
    for other in ("/b/image", "/b/image/compressed"):
        with pytest.raises(SequenceError, match="several image topics"):
            choose(bag, "/a/image", "/a/image/compressed", other)


def test_a_bag_that_lacks_its_metadata_is_told_how_to_get_it(bag):
    (bag / "metadata.yaml").unlink()
    for read in (open_sequence, Bag):
        with pytest.raises(SequenceError, match=f"ros2 bag reindex {bag}"):
            read(bag)


def test_of_a_file_that_is_cut_short_what_is_there_can_be_saved(bag):
    file = next(path for path in bag.iterdir() if path.suffix != ".yaml")
    halved(file)
    for path in (bag, file):
        with pytest.raises(SequenceError, match="cannot be read as a rosbag2") as raised:
            list(open_sequence(path))
        assert ("mcap recover" in str(raised.value)) == (file.suffix == ".mcap")
