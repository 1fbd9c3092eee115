"""A test that forgets a process.

Look for: the test passes, the process is ended with the sandbox, and the end of the output names it: `sleep 600`. With `leak="fail"`
the test would fail: `failures/leak.py`.
"""

import os
import subprocess

import pytest


@pytest.mark.isolate
def test_forgets_a_server():
    subprocess.run("sleep 600 &", shell=True, check=True)


@pytest.mark.isolate
def test_sees_no_process_of_others():
    assert len([name for name in os.listdir("/proc") if name.isdigit()]) == 2  # the sandbox's init and this test
