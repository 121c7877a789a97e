"""What was mapped is not lost: neither by Ctrl-C nor by a full disk."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from scal3r_ros.data.tum import read_trajectory
from scal3r_ros.offline import Interrupt
from test.conftest import OFFICE, ROOT
from test.test_cli import clip  # noqa: F401


def test_the_first_interrupt_is_told_and_the_second_ends():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a job behind &
    usual = signal.getsignal(signal.SIGINT)
    with Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.came
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    with Interrupt() as interrupt:
        assert not interrupt.came
    assert signal.getsignal(signal.SIGINT) == usual
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
def test_an_interrupt_leaves_the_map_so_far(tmp_path):
    command = [sys.executable, "-m", "scal3r_ros.cli", "-v", "map", OFFICE]
    with open(tmp_path / "said", "w") as said:
        run = subprocess.Popen([*command, "--out", tmp_path / "out"], cwd=ROOT, stderr=said)
    until = time.monotonic() + 100
    while "submap 1" not in (tmp_path / "said").read_text() and time.monotonic() < until:
        time.sleep(0.1)
    run.send_signal(signal.SIGINT)
    assert run.wait(60) == 130
    assert "interrupted: the map so far is written" in (tmp_path / "said").read_text()
    assert json.loads((tmp_path / "out" / "report.json").read_text())["interrupted"]
    assert 10 < len(read_trajectory(tmp_path / "out" / "trajectory.txt")) < 250
    assert (tmp_path / "out" / "map.ply").stat().st_size > 1000


@pytest.mark.slow
def test_a_full_disk_is_told_with_the_file_and_what_fits_is_there(clip, tmp_path):  # noqa: F811
    """A limit of the file's size, 2 MB, in its place: the memory is larger."""
    out = tmp_path / "out"
    command = f"ulimit -f 2000; {sys.executable} -m scal3r_ros.cli map {clip} --out {out}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert f"scal3r: {out}/memory.safetensors cannot be written: " in done.stderr
    assert not list(out.glob("memory*"))
    assert (out / "map.ply").stat().st_size > 1000
    assert len(read_trajectory(out / "trajectory.txt")) == 26
