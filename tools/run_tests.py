"""All tests, in two processes side by side: those that start nodes, and the others behind them.

Nodes of tests wait more than they compute; the others take the time that is left (SCHED_IDLE, on
Linux). Arguments go to both; the second one's words are shown when it has ended.
"""

import os
import shutil
import subprocess
import sys
import tempfile

NODES = ["test/ros", "test/test_doctor.py", "test/test_cli.py"]
NOTHING_COLLECTED = 5  # exit code of pytest


def stand_back() -> None:
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def main() -> int:
    pytest = [sys.executable, "-m", "pytest"]
    with tempfile.TemporaryFile() as said:
        others = subprocess.Popen(
            [*pytest, "test", *(f"--ignore={path}" for path in NODES), *sys.argv[1:]],
            stdout=said,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            preexec_fn=stand_back,
        )
        first = subprocess.run([*pytest, *NODES, *sys.argv[1:]], check=False).returncode
        codes = {first, others.wait()}
        said.seek(0)
        shutil.copyfileobj(said, sys.stdout.buffer)
    if codes == {NOTHING_COLLECTED}:
        return NOTHING_COLLECTED
    return max(codes - {NOTHING_COLLECTED})


if __name__ == "__main__":
    sys.exit(main())
