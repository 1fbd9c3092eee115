"""Real processes, real signals: a forked child writes, this process reads."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_isolate.plugin.crash import CrashFile, FaultTimer, readable_stacks


@pytest.fixture
def stacks() -> Iterator[CrashFile]:
    with CrashFile() as file:
        yield file


@contextlib.contextmanager
def forked(body: Callable[[], object]) -> Iterator[tuple[int, int]]:
    """Pid and pidfd of a child that runs `body` and waits or stops there; killed and reaped in the end."""
    ready, said = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(ready)
            os.write(said, b"x")
            body()
        finally:
            os._exit(0)
    os.close(said)
    pidfd = os.pidfd_open(pid)
    try:
        os.read(ready, 1)
        settled = 0
        while settled < 10:  # a page fault or a lock can put it to sleep for a moment on its way
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
            settled = settled + 1 if state in "STZ" else 0
            time.sleep(0.005)
        yield pid, pidfd
    finally:
        os.close(ready)
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        os.close(pidfd)


def crash() -> None:
    ctypes.string_at(0)


def test_crash_leaves_its_stack_with_source_line(stacks: CrashFile) -> None:
    def body() -> None:
        stacks.enable()
        crash()

    pid = os.fork()
    if pid == 0:
        try:
            body()
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGSEGV
    text = stacks.read()
    assert text.startswith("Fatal Python error: Segmentation fault\nCurrent thread (most recent call first):")
    assert " in crash\n    ctypes.string_at(0)\n" in text
    assert "_pytest" not in text
    stacks.clear()
    assert stacks.read() == ""


def test_dump_of_a_hung_process_shows_where_it_hangs(stacks: CrashFile) -> None:
    def hang() -> None:
        stacks.enable()
        time.sleep(60)

    with forked(hang) as (_, pidfd):
        text = stacks.dump(pidfd)
    assert " in hang\n    time.sleep(60)" in text


def test_dump_shows_the_other_threads_after_the_running_one(stacks: CrashFile) -> None:
    def hang() -> None:
        stacks.enable()
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        time.sleep(60)

    with forked(hang) as (_, pidfd):
        lines = stacks.dump(pidfd).splitlines()
    threads = [line for line in lines if line.endswith("(most recent call first):")]
    assert threads[0].startswith("Current thread")
    assert threads[1].startswith("Thread")


def test_stopped_process_gives_no_dump_and_costs_only_the_wait(stacks: CrashFile) -> None:
    def stop() -> None:
        stacks.enable()
        os.kill(os.getpid(), signal.SIGSTOP)

    with forked(stop) as (_, pidfd):
        start = time.monotonic()
        assert stacks.dump(pidfd, wait=0.2) == ""
        assert time.monotonic() - start < 2


def test_dump_of_a_process_that_has_ended_is_empty(stacks: CrashFile) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    pidfd = os.pidfd_open(pid)
    os.waitpid(pid, 0)
    assert stacks.dump(pidfd, wait=0.1) == ""
    os.close(pidfd)


def test_test_that_changed_faulthandler_leaves_nothing_here(stacks: CrashFile, tmp_path: Path) -> None:
    def body() -> None:
        import faulthandler

        stacks.enable()
        with open(tmp_path / "own", "w") as own:
            faulthandler.enable(own)
            crash()

    with forked(body) as (_, pidfd):
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
    assert stacks.read() == ""
    assert "Segmentation fault" in (tmp_path / "own").read_text()


def test_fault_timer_stopped_before_the_fork_does_not_deadlock_its_child(tmp_path: Path) -> None:
    """Without `stop` the child hangs in cancel_dump_traceback_later: its lock is held by a thread it hasn't got."""
    script = textwrap.dedent(
        """
        import faulthandler, os, sys, time
        from pytest_isolate.plugin.crash import FaultTimer
        out = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
        faulthandler.dump_traceback_later(60)
        timer = FaultTimer(0.1, False, out)
        timer.stop()
        pid = os.fork()
        if pid == 0:
            timer.start()
            time.sleep(0.5)
            faulthandler.cancel_dump_traceback_later()
            os._exit(7)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        """
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", script, str(tmp_path / "out")], timeout=20, check=False)
    assert done.returncode == 7
    assert "Timeout (0:00:00.1" in (tmp_path / "out").read_text()


def test_fault_timer_not_in_use_touches_nothing() -> None:
    FaultTimer(0, False, -1).stop()
    FaultTimer(0, False, -1).start()


FRAMES = """\
Fatal Python error: Segmentation fault

Thread 0x00007f0000000001 [worker] (most recent call first):
  File "/usr/lib/python3/threading.py", line 355 in wait

Current thread 0x00007f0000000002 [main] (most recent call first):
  File "/proj/deep.py", line 2 in down
  File "/proj/deep.py", line 2 in down
  File "/proj/deep.py", line 2 in down
  File "/proj/test_deep.py", line 9 in test_deep
  File "/site/_pytest/python.py", line 166 in pytest_pyfunc_call
  File "/site/pluggy/_callers.py", line 121 in _multicall
  File "/site/_pytest/runner.py", line 353 in from_call
  File "/site/_pytest/runner.py", line 136 in runtestprotocol
  File "/site/_pytest/main.py", line 10 in main

Extension modules: numpy.core (total: 1)
"""


def test_frames_of_pytest_repeats_and_addresses_are_left_out() -> None:
    assert readable_stacks(FRAMES).splitlines() == [
        "Fatal Python error: Segmentation fault",
        "Current thread [main] (most recent call first):",
        '  File "/proj/deep.py", line 2 in down',
        "  [the same frame 2 more times]",
        '  File "/proj/test_deep.py", line 9 in test_deep',
        "Thread [worker] (most recent call first):",
        '  File "/usr/lib/python3/threading.py", line 355 in wait',
    ]


def test_path_that_is_a_fifo_is_not_opened(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    text = f'Current thread 0x1 (most recent call first):\n  File "{fifo}", line 1 in f\n'
    assert readable_stacks(text).endswith("line 1 in f")


@pytest.mark.parametrize("text", ["", "\n\n", "garbage", "Thread 0x1 (most", "\0\ufffd"])
def test_text_of_unknown_form_passes_through(text: str) -> None:
    assert isinstance(readable_stacks(text), str)
