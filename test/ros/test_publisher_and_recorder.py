"""What publisher and recorder say of parameters and files that do not fit."""

import subprocess
import sys

import pytest

from test.conftest import OFFICE, ROOT

pytestmark = [pytest.mark.ros]


def run(module: str, **parameters: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", f"scal3r_ros.ros.{module}", "--ros-args"]
    for name, content in parameters.items():
        command += ["-p", f"{name}:={content}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_a_rate_may_be_a_whole_number():
    done = run("image_publisher", sequence=OFFICE, rate=2, max_images=2, wait_for_subscribers=0)
    assert done.returncode == 0, done.stderr
    assert "published 2 images" in done.stderr


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"rate": "fast"}, "rate must be a number that is not negative, got fast"),
        ({"rate": -1.0}, "rate must be a number that is not negative, got -1.0"),
        ({"max_pending": 2.5}, "max_pending"),
        ({"sequence": "/none"}, "/none does not exist"),
    ],
)
def test_a_publisher_says_what_does_not_fit_in_one_line(parameters, said):
    done = run("image_publisher", **{"sequence": OFFICE, "wait_for_subscribers": 0} | parameters)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_recorder_leaves_the_bag_that_exists(tmp_path):
    (tmp_path / "notes.txt").touch()
    done = run("recorder", bag=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert f"{tmp_path} exists" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
