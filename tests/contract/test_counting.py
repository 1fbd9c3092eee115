"""What counts instructions counts all that runs in a sandbox. Software events, which every machine has, go the same way."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import time

import pytest

from pytest_isolate.kernel import perf_event
from pytest_isolate.model.errors import SetupError
from pytest_isolate.model.usage import Usage
from pytest_isolate.sandbox import Pool, Sandbox
from tests.support.capabilities import requires
from tests.support.counters import refused_event
from tests.support.unprivileged import run_python

MIB = 256  # page faults of 4 KiB

TOUCH = "import sys; data = bytearray(int(sys.argv[1]) << 20); data[::4096] = b'x' * len(data[::4096])"
"""Touches every page of so many MiB, in pages of 4 KiB: no huge pages below."""

NO_HUGE_PAGES = "import ctypes; assert ctypes.CDLL(None).prctl(41, 1, 0, 0, 0) == 0; "
"""PR_SET_THP_DISABLE."""


def touch(mib: int) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", NO_HUGE_PAGES + TOUCH, str(mib)]


def own_counters() -> int:
    listed = subprocess.run(["ls", "-l", f"/proc/{os.getpid()}/fd"], capture_output=True, text=True, check=False).stdout
    return listed.count("[perf_event]")


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch):
    """One that counts page faults in the place of instructions."""
    monkeypatch.setattr(perf_event, "INSTRUCTIONS", perf_event.PAGE_FAULTS)
    made = Pool(depth=0)
    made.count_instructions()
    yield made
    made.close()


def counted(box: Sandbox) -> int:
    value = box.usage().cpu_instructions
    assert value is not None
    return value


@requires("root", "sandbox")
def test_programs_and_the_programs_that_they_start_are_counted(pool: Pool):
    with Sandbox(pool=pool) as box:
        box.run(touch(0), check=True)
        base = counted(box)
        box.run(touch(20), check=True)
        alone = counted(box) - base
        box.run(["/bin/sh", "-c", 'for i in 1 2; do "$@" & done; wait', "sh", *touch(20)], check=True)
        two = counted(box) - base - alone
    # What the interpreter takes to start differs by what the page cache holds.
    assert 19 * MIB < alone - base < 25 * MIB
    assert 38 * MIB < two - 2 * base < 50 * MIB


@requires("root", "sandbox")
def test_process_that_nobody_waits_for_and_one_that_still_runs_are_counted(pool: Pool):
    code = f"""
import os, signal, sys, time
{NO_HUGE_PAGES}
if os.fork():
    os._exit(0)
os.setsid()
data = bytearray(20 << 20)
data[::4096] = b"x" * len(data[::4096])
time.sleep(60)
"""
    with Sandbox(pool=pool) as box:
        box.run(["/bin/true"], check=True)
        before = counted(box)
        process = box.popen([sys.executable, "-I", "-S", "-c", code])
        assert process.wait(30) == 0
        deadline = time.monotonic() + 30
        while counted(box) - before < 20 * MIB and time.monotonic() < deadline:
            time.sleep(0.01)
        assert box.processes()
        assert counted(box) - before > 20 * MIB


@requires("root", "sandbox")
def test_killed_process_is_counted_to_its_end(pool: Pool):
    with Sandbox(pool=pool) as box:
        process = box.popen([*touch(20)[:-2], TOUCH + "; import time; print(flush=True); time.sleep(60)", "20"], stdout=-1)
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        process.close()
        assert counted(box) > 20 * MIB // 512  # huge pages perhaps


@requires("root", "sandbox")
def test_each_sandbox_has_its_own_count_and_no_descriptor_stays(pool: Pool):
    with Sandbox(pool=pool) as one, Sandbox(pool=pool) as other:
        one.run(touch(20), check=True)
        before = counted(one)
        done = other.run(["/bin/ls", "-l", "/proc/self/fd"], check=True)
        assert counted(one) == before
        assert counted(other) < MIB * 20
        assert b"perf_event" not in done.stdout
        assert own_counters() == 3
    assert own_counters() == 1
    pool.close()
    assert own_counters() == 0


@requires("root", "sandbox")
def test_pool_counts_nothing_unless_it_is_told_to():
    pool = Pool(depth=0)
    try:
        with Sandbox(pool=pool) as box:
            box.run(["/bin/true"], check=True)
            assert box.usage().cpu_instructions is None
    finally:
        pool.close()


@requires("root", "sandbox")
def test_counter_that_the_kernel_refuses_keeps_the_program_from_running(monkeypatch: pytest.MonkeyPatch):
    event = refused_event()
    monkeypatch.setattr(perf_event, "INSTRUCTIONS", event)
    refused = perf_event.refusal(event)
    assert refused is not None
    pool = Pool(depth=0)
    pool.count_instructions()
    try:
        with Sandbox(pool=pool) as box, pytest.raises(SetupError) as caught:
            box.run(["/bin/true"], check=True)
        assert f"perf_event_open(PERF_COUNT_HW_INSTRUCTIONS): {errno.errorcode[refused.errno]}" in str(caught.value)
    finally:
        pool.close()


def test_time_that_was_not_counted_makes_no_figure():
    assert perf_event.Reading(5, 100, 100).whole == 5
    assert perf_event.Reading(5, 100, 60).whole is None
    assert Usage.from_json({"cpu_instructions": 5}).cpu_instructions == 5


@requires("unprivileged-user", "userns", "user-counters")
def test_user_without_privileges_counts_what_runs_in_a_sandbox():
    done = run_python(
        f"""
import sys
from pytest_isolate.kernel import perf_event
from pytest_isolate.sandbox import Pool, Sandbox
perf_event.INSTRUCTIONS = perf_event.PAGE_FAULTS
pool = Pool(depth=0)
pool.count_instructions()
with Sandbox(pool=pool) as box:
    touch = lambda mib: [sys.executable, "-I", "-S", "-c", {NO_HUGE_PAGES + TOUCH!r}, str(mib)]
    box.run(touch(0), check=True)
    base = box.usage().cpu_instructions
    box.run(["/bin/sh", "-c", '"$@"; "$@"', "sh", *touch(20)], check=True)
    both = box.usage().cpu_instructions
    box.run(["/bin/true"], check=True)
    true = box.usage().cpu_instructions
    box.run(["/bin/mount", "--version"], check=True)
    print(base, both - base, true - both, box.usage().cpu_instructions - true)
pool.close()
"""
    )
    assert done.returncode == 0, done.stderr
    base, both, true, setuid = map(int, done.stdout.split())
    assert 38 * MIB < both - base < 50 * MIB
    assert os.stat("/bin/mount").st_mode & stat.S_ISUID
    assert setuid > true  # it gains nothing by its bit, and so doesn't end what observes it
