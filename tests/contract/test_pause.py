"""Sandboxes held still and let go on: by SIGSTOP, found through cgroups or /proc, and by the v2 freezer."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_isolate.kernel.cgroup import Group
from pytest_isolate.kernel.cgroup_mounts import cgroup_mounts
from pytest_isolate.sandbox.pause import pause
from tests.support.callers import Caller, caller
from tests.support.capabilities import requires

__all__ = ["caller"]

PRELUDE = """
import tempfile
from pytest_isolate.sandbox.pause import pause
TICKER = "import os, sys, time\\nfor _ in range(3): os.fork()\\nwhile True: os.write(1, b'.'); time.sleep(0.005)"
FORKER = "import os, sys, time\\nwhile True:\\n pid = os.fork()\\n if not pid: os.write(1, b'.'); os._exit(0)\\n os.waitpid(pid, 0)"

def started(opened, code):
    file = tempfile.TemporaryFile()
    process = opened.popen([PYTHON, "-I", "-S", "-c", code], stdout=file)
    return process, (lambda: os.fstat(file.fileno()).st_size)

def moves(size, within=10.0):
    before, deadline = size(), time.monotonic() + within
    while size() == before and time.monotonic() < deadline:
        time.sleep(0.01)
    return size() > before

def stands(size):
    before = size()
    time.sleep(0.2)
    return size() == before
"""


@pytest.mark.parametrize("code", ["TICKER", "FORKER"])
@pytest.mark.parametrize("group", ["opened.group", "None"], ids=["cgroup", "proc"])
def test_all_processes_stand_still_and_go_on(caller: Caller, code: str, group: str) -> None:
    seen = caller.run(
        PRELUDE
        + f"""
with box() as opened:
    process, size = started(opened, {code})
    seen = [moves(size)]
    for _ in range(3):
        held = pause(opened.init_pid, {group})
        seen.append(stands(size))
        held.resume()
        seen.append(moves(size))
    opened.kill()
    process.wait()
    tell(seen)
"""
    )
    assert seen == [True] * 7


def test_process_that_was_stopped_before_stays_stopped(caller: Caller) -> None:
    states = caller.run(
        PRELUDE
        + """
def state(): return open(f"/proc/{process.pid}/stat").read().rpartition(")")[2].split()[0]
with box() as opened:
    process, _ = started(opened, "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)")
    deadline = time.monotonic() + 10
    while state() != "T" and time.monotonic() < deadline: time.sleep(0.01)
    held = pause(opened.init_pid, opened.group)
    held.resume()
    time.sleep(0.1)
    first = state()
    opened.kill()
    tell([first, process.wait()])
"""
    )
    assert states == ["T", -9]


def test_paused_sandbox_is_killed_like_any(caller: Caller) -> None:
    code = caller.run(
        PRELUDE
        + """
with box() as opened:
    process, size = started(opened, TICKER)
    moves(size)
    pause(opened.init_pid, opened.group)
    opened.kill()
    tell(process.wait(10))
"""
    )
    assert code == -9


@pytest.fixture
def v2_directory() -> Iterator[Path]:
    """A cgroup of the v2 tree, also where that is the empty one beside v1's."""
    mounts = cgroup_mounts(Path("/proc/self/mountinfo").read_text())
    base = next(mount.point for mount in mounts if mount.version == 2)
    directory = Path(base) / f"isolate-test-pause-{os.getpid()}"
    directory.mkdir()
    try:
        yield directory
    finally:
        deadline = time.monotonic() + 10
        while True:
            try:
                directory.rmdir()
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.01)


@requires("root", "cgroup2")
def test_v2_freezer_holds_still_what_is_in_the_directory(v2_directory: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    code = "import time\nwhile True: print('.', flush=True); time.sleep(0.005)"
    with output.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=file)
    try:
        (v2_directory / "cgroup.procs").write_text(str(process.pid))
        deadline = time.monotonic() + 10
        while not output.stat().st_size and time.monotonic() < deadline:
            time.sleep(0.01)
        held = pause(0, Group("box", v2=str(v2_directory)))
        size = output.stat().st_size
        time.sleep(0.2)
        assert output.stat().st_size == size > 0
        assert "frozen 1" in (v2_directory / "cgroup.events").read_text()
        held.resume()
        deadline = time.monotonic() + 10
        while output.stat().st_size == size and time.monotonic() < deadline:
            time.sleep(0.01)
        assert output.stat().st_size > size
    finally:
        process.kill()
        process.wait()
