"""Stamps as text: exact, and refused where they are none."""

import pytest

from scal3r_ros.data.folder import stamp_ns
from scal3r_ros.data.sequence import SequenceError, open_sequence
from scal3r_ros.data.tum import decimal_seconds
from test.data.test_sequence import write_folder


@pytest.mark.parametrize("told_ns", [0, 1, -1, -4_800_000_000, 1_790_000_000_123_456_789])
def test_a_stamp_that_is_written_is_read_back(told_ns):
    assert stamp_ns(decimal_seconds(told_ns), "") == told_ns


@pytest.mark.parametrize("text", ["foo", "inf", "-inf", "nan", "1e15"])
def test_what_is_no_stamp_is_refused(text):
    with pytest.raises(SequenceError, match=f"times.txt: a stamp in seconds .* got {text!r}"):
        stamp_ns(text, "times.txt")


def test_times_may_have_comments_but_must_be_text(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "times.txt").write_text("# seconds\n" + "".join(f"{i} {i}.png\n" for i in range(5)))
    assert [f.stamp_ns for f in open_sequence(tmp_path)] == [i * 10**9 for i in range(5)]
    (tmp_path / "times.txt").write_bytes(b"\xff\xfe\n" * 5)
    with pytest.raises(SequenceError, match="a stamp in seconds was expected"):
        open_sequence(tmp_path)
