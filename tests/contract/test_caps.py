"""Caps and figures of a sandbox, as root and as an unprivileged user with a delegated cgroup."""

from __future__ import annotations

import pytest

from tests.support.callers import Caller, caller
from tests.support.capabilities import layout_here, on_layout, requires
from tests.support.unprivileged import user_directory

__all__ = ["caller"]


@pytest.fixture(autouse=True)
def _controllers(request: pytest.FixtureRequest) -> None:
    """Where controllers are on v1 and v2 a user has those of one: nobody moves it to a directory of v2 that is named (cgroups(7))."""
    if layout_here() == "mixed" and "user" in request.node.name.rpartition("[")[2]:
        pytest.skip("cgroup layout mixed, and this is about a user that has every controller")


@requires("cgroup-cpu")
def test_cpu_cap_of_20_percent_gives_a_busy_process_a_fifth(caller: Caller) -> None:
    share, usage = caller.run(
        '''
with box(cpu=0.2) as opened:
    done = opened.run([PYTHON, "-c", """
import time
start, used = time.monotonic(), time.process_time()
while time.monotonic() - start < 2: pass
print((time.process_time() - used) / (time.monotonic() - start))
"""])
    tell([float(done.stdout), opened.usage().to_json()])
'''
    )
    assert 0.1 < share < 0.27
    assert usage["cpu_throttled_seconds"] > 0.5
    assert usage["cpu_seconds"] > 0.2
    assert usage["cpu_user_seconds"] + usage["cpu_system_seconds"] == pytest.approx(usage["cpu_seconds"], abs=0.1)


@requires("cgroup-memory")
def test_memory_cap_kills_and_counts(caller: Caller) -> None:
    code, usage, events = caller.run(
        """
with box(memory=32 << 20) as opened:
    done = opened.run([PYTHON, "-c", "x = bytearray(64 << 20); print(len(x))"])
    events = opened.events()
    tell([done.returncode, opened.usage().to_json(), [events.oom_kills, events.oom_victims]])
"""
    )
    assert code == -9
    assert usage["oom_kills"] == 1
    assert 31 << 20 < usage["memory_peak_bytes"] <= 32 << 20
    assert events[0] == 1
    if caller.is_root:
        assert "python" in events[1][0]


@requires("cgroup-memory")
def test_memory_peak_is_what_was_touched(caller: Caller) -> None:
    peak = caller.run(
        """
with box() as opened:
    opened.run([PYTHON, "-c", "x = bytearray(50 << 20)"], check=True)
    tell(opened.usage().memory_peak_bytes)
"""
    )
    assert 50 << 20 < peak < 80 << 20


@requires("cgroup-pids")
def test_pids_cap_refuses_the_next_fork(caller: Caller) -> None:
    text, hits = caller.run(
        '''
with box(pids=3) as opened:
    done = opened.run([PYTHON, "-c", """
import os, time
made = 0
try:
    for _ in range(10):
        if os.fork() == 0: time.sleep(30)
        made += 1
except OSError as error: print(made, error.errno)
"""])
    tell([done.stdout.decode(), opened.events().pids_cap_hits])
'''
    )
    assert text.split() == ["2", "11"]
    assert hits >= 1


def test_disk_cap_ends_in_enospc(caller: Caller) -> None:
    number, full, written = caller.run(
        '''
with box(disk=4 << 20) as opened:
    done = opened.run([PYTHON, "-c", """
try:
    with open("big", "wb", buffering=0) as file:
        while True: file.write(bytes(1 << 16))
except OSError as error: print(error.errno)
"""], cwd=os.getcwd())
    tell([int(done.stdout), opened.events().disk_full, opened.usage().disk_written_bytes])
'''
    )
    assert number == 28
    assert full
    assert 3 << 20 < written <= 4 << 20


@requires("cgroup-io", "disk")
def test_io_throttle_slows_direct_writes_and_counts_them(caller: Caller) -> None:
    seconds, usage = caller.run(
        '''
os.mkdir("out")
with box(io=IoLimit(write=4 << 20), writable=(os.getcwd() + "/out",)) as opened:
    done = opened.run([PYTHON, "-c", """
import mmap, os, time
block = mmap.mmap(-1, 1 << 20)
fd = os.open("out/direct", os.O_CREAT | os.O_WRONLY | os.O_DIRECT)
start = time.monotonic()
for _ in range(8): os.write(fd, block)
print(time.monotonic() - start)
"""], cwd=os.getcwd(), check=True)
    tell([float(done.stdout), opened.usage().to_json()])
'''
    )
    assert seconds > 1
    assert usage["io_write_bytes"] >= 8 << 20


@on_layout("v1", "hybrid")  # on v2 the user's own systemd gives one
@requires("unprivileged-user", "userns")
def test_caps_without_delegation_are_a_missing_capability_and_figures_are_absent() -> None:
    """An unprivileged user on cgroup v1 without a delegated directory."""
    with user_directory() as directory:
        message, usage = Caller("user", directory, None).run(
            """
try: inside("tell(1)", memory=1 << 26)
except MissingCapability as error: message = str(error)
with box() as opened:
    opened.run(["true"])
    tell([message, opened.usage().to_json()])
"""
        )
    assert "memory" in message
    assert "--isolate-cgroup=" in message
    assert "memory_peak_bytes" not in usage
    assert "oom_kills" not in usage
