"""What would end the whole run elsewhere.

Look for: nothing of it reaches pytest or the next test. `failures/crash.py` shows what is said when the test itself crashes.
"""

import os
import signal
import socket
import subprocess

import pytest


@pytest.mark.isolate(pids=16)
def test_a_fork_bomb_hits_the_cap():
    children = []
    with pytest.raises(BlockingIOError):
        while True:
            children.append(subprocess.Popen(["sleep", "60"]))
    for child in children:
        child.kill()
        child.wait()
    assert 0 < len(children) < 16


@pytest.mark.isolate
def test_kill_minus_one_reaches_nobody_else():
    child = subprocess.Popen(["sleep", "60"])
    os.kill(-1, signal.SIGKILL)  # every process that this one may signal: here, those of the sandbox
    assert child.wait(10) == -signal.SIGKILL


@pytest.mark.isolate(hostname="box")
def test_a_hostname_of_its_own():
    assert socket.gethostname() == "box"
