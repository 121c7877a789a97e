"""Compiling is measured, keeps the numbers, and where it fails it is left out with a word."""

import json
import subprocess
import sys

import pytest

from scal3r_ros.network.scal3r import Scal3R
from test.network.test_scal3r import TINY


def test_compiled_blocks_agree_and_a_missing_compiler_is_named():
    worker = [sys.executable, "-m", "test.network.compile_worker"]
    done = subprocess.run(worker, capture_output=True, text=True, timeout=300, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert 0 < found["difference"] < 1e-3  # other kernels ran, and they agree
    assert found["chosen"] in ("off", "on")
    assert found["without_compiler"] == "off"
    assert "compile=on does not work here" in done.stderr
    assert found["equal_after"]


@pytest.mark.parametrize("mode", ["fast", "graphs"])
def test_an_unknown_mode_is_refused(mode):
    with pytest.raises(ValueError, match="compile must be one of"):
        Scal3R(TINY).compile_blocks(mode)
