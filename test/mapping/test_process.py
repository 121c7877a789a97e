"""What the process does with freed memory, counted in pages that the kernel had to hand out, and
with threads."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ARITHMETIC = """
import resource, sys
import numpy as np
from scal3r_ros.mapping.process import LARGE, steady_heap
if sys.argv[1] == "steady":
    steady_heap()
x = np.ones(30_000)

def pages(work):
    work()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        work()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 20

def resident():
    status = open("/proc/self/status").read()
    return int(status.split("VmRSS:")[1].split()[0]) << 10

small = pages(lambda: [x * k for k in range(40)])
before = resident()
blocks = [np.ones(LARGE // 8 + 1) for _ in range(20)]
pins = [np.ones(100) for _ in range(20)]
del blocks
print(small, (resident() - before) / LARGE)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is set, there is none")
def test_small_arrays_come_again_and_large_ones_go_back():
    """40 arrays of 240 kB a round are 2300 pages; kept, they cost next to none."""
    answers = {}
    for way in ("as it is", "steady"):
        command = [sys.executable, "-c", ARITHMETIC, way]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        answers[way] = [float(number) for number in told.split()]
    assert answers["as it is"][0] > 1000
    assert answers["steady"][0] < 100
    assert answers["steady"][1] < 1  # of the 20 that were there


HOLES = """
from scal3r_ros.mapping.process import return_holes, steady_heap
steady_heap()

def resident():
    status = open("/proc/self/status").read()
    return int(status.split("VmRSS:")[1].split()[0]) << 10

blocks = [bytearray(8000) for _ in range(20_000)]
pins = blocks[::16]
del blocks
full = resident()
return_holes()
print((full - resident()) / (20_000 * 8000))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is set, there is none")
def test_what_is_free_between_kept_things_goes_back():
    """A sixteenth of 160 MB is kept, all over; more than half of the rest returns."""
    command = [sys.executable, "-c", HOLES]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert 0.5 < float(told) <= 1


THREADS = """
import json, sys, cv2, numpy, scipy.linalg, torch
from threadpoolctl import threadpool_info
torch.set_num_threads(2)
if sys.argv[1] == "command":
    from typer.testing import CliRunner
    from scal3r_ros.cli import app
    answer = CliRunner().invoke(app, ["weights", "convert", "nothing", "nowhere"])
    assert answer.exit_code != 0  # there are no such weights; that far it went
else:
    from scal3r_ros.ros.running import spin
    def started():
        raise OSError("far enough")
    try:
        spin(started)
    except SystemExit:
        pass
blas = [(x["filepath"], x["num_threads"]) for x in threadpool_info() if x["user_api"] == "blas"]
print(json.dumps([blas, torch.get_num_threads()]))
"""


@pytest.mark.parametrize("way", ["command", "node"])
def test_small_matrices_stay_in_their_thread_and_the_network_keeps_its_own(way):
    if way == "node":
        pytest.importorskip("rclpy", reason="nodes need ROS 2")
    environment = os.environ | {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    command = [sys.executable, "-c", THREADS, way]
    told = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    blas, torch_threads = json.loads(told.stdout)
    numpy_and_others = {path: n for path, n in blas if "torch" not in Path(path).parts}
    assert numpy_and_others, "no BLAS with threads was found: numpy and scipy bring one"
    assert set(numpy_and_others.values()) == {1}
    assert torch_threads == 2
