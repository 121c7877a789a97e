"""What the process does with freed memory, counted in pages that the kernel had to hand out."""

import subprocess
import sys

import pytest

ARITHMETIC = """
import resource, sys
import numpy as np
from scal3r_ros.mapping.host_memory import LARGE, steady_heap
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
