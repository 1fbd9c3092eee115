"""A test that forgets a process.

Look for: the test passes, the process is ended with the sandbox, and the end of the output names it: `sleep (pid …)`. With `leak="fail"`
the test would fail: `failures/leak.py`.
"""

import os
import subprocess

import pytest

SERVERS = []


@pytest.mark.isolate
def test_forgets_a_server():
    SERVERS.append(subprocess.Popen(["sleep", "600"]))


@pytest.mark.isolate
def test_sees_no_process_of_others():
    assert len([name for name in os.listdir("/proc") if name.isdigit()]) == 2  # the sandbox's init and this test
