"""A program that wants more memory than the sandbox may use.

Look for: the kernel kills the program, not the test and not pytest; the table at the end shows the peak at the cap.
`failures/oom.py` shows what is said when it is the test itself.
"""

import signal
import subprocess
import sys

import pytest


@pytest.mark.isolate(memory="64MiB")
def test_a_hungry_program_dies_alone():
    program = subprocess.run([sys.executable, "-c", "data = bytearray(512 << 20)"], check=False)
    assert program.returncode == -signal.SIGKILL


def test_the_next_test_runs_normally():
    assert len(bytearray(128 << 20)) == 128 << 20
