"""A real unprivileged user on cgroup v1: nothing without a delegated directory, everything with one."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.capabilities import on_layout, requires
from tests.support.unprivileged import USER_ID, run_python, user_directory

pytestmark = [requires("root", "unprivileged-user", "cgroup-memory", "cgroup-pids", "cgroup-cpu"), on_layout("v1", "hybrid")]

PRELUDE = """
import json, os, signal, sys, time
from pytest_isolate.kernel.cgroup import *
assert os.getresuid() == (64321,) * 3
def inside(group, work):
    if (pid := os.fork()) == 0:
        join(group)
        work()
        os._exit(0)
    return os.waitpid(pid, 0)[1]
def answer(value):
    print(json.dumps(value))
"""


def as_user(code: str, *args: str) -> Any:
    done = run_python(PRELUDE + code, *args)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def handed_over() -> Iterator[str]:
    """A directory of the user's in every hierarchy; nothing but the directory itself is chowned."""
    path = f"h-rootless-{os.getpid()}"
    points = [Path("/sys/fs/cgroup", name) for name in ("cpu", "cpuacct", "memory", "pids", "blkio")]
    made = list({(point / path).resolve() for point in points})
    for directory in made:
        directory.mkdir()
        os.chown(directory, USER_ID, USER_ID)
    yield path
    for directory in made:
        assert [entry.name for entry in directory.iterdir() if entry.is_dir()] == []
        directory.rmdir()


def test_without_delegation_every_cap_is_missing_with_the_command_to_type() -> None:
    lacking, directories = as_user("""
h = detect()
assert h.controllers == frozenset()
h.create_run(run_name(os.getpid()))
answer([{name: [error.why, error.hint] for name, error in h.lacking.items()}, h.run_directories])
""")
    assert directories == []
    assert set(lacking) == {"cgroup-cpu", "cgroup-memory", "cgroup-pids", "cgroup-io"}
    for why, hint in lacking.values():
        assert why.endswith(f"can't be written by user {USER_ID}")
        assert f"install -d -o {USER_ID} /sys/fs/cgroup/" in hint
        assert "--isolate-cgroup=" in hint


def test_typed_command_of_the_hint_gives_the_controllers() -> None:
    find = "h = detect(*sys.argv[1:]); h.create_run(run_name(os.getpid()));"
    hint = as_user(find + "answer(h.lacking['cgroup-pids'].hint)")
    command = hint.removeprefix("as root: ").partition(";")[0].replace("/isolate", f"/h-hint-{os.getpid()}")
    try:
        subprocess.run(command, shell=True, check=True)
        found = as_user(find + "answer([sorted(h.controllers), h.lacking, h.remove_run()])", f"h-hint-{os.getpid()}")
        assert found == [["cpu", "io", "memory", "pids"], {}, True]
    finally:
        for directory in command.split()[4:]:
            Path(directory).rmdir()


def test_delegated_directory_gives_every_cap(handed_over: str) -> None:
    controllers, directories, removed = as_user(
        """
h = detect(sys.argv[1])
h.create_run(run_name(os.getpid()))
answer([sorted(h.controllers), h.run_directories, h.remove_run()])
""",
        handed_over,
    )
    assert controllers == ["cpu", "io", "memory", "pids"]
    assert all(f"/{handed_over}/pytest-isolate-" in path for path in directories)
    assert removed


def test_caps_hold_and_figures_are_read_as_the_user(handed_over: str) -> None:
    found = as_user(
        """
h = detect(sys.argv[1])
h.create_run(run_name(os.getpid()))
group = h.create("1", Caps(cpu=0.2, memory=16 << 20, pids=3))
def burn():
    end = time.monotonic() + 0.5
    while time.monotonic() < end: pass
start = time.monotonic()
statuses = [inside(group, burn), inside(group, lambda: bytearray(64 << 20))]
seconds = time.monotonic() - start
usage, events = read_usage(group), read_events(group)
answer([statuses, seconds, usage.to_json(), events.oom_kills, len(oom_victims(group)), h.remove(group), h.remove_run()])
""",
        handed_over,
    )
    statuses, seconds, usage, oom_kills, victims, *removed = found
    assert statuses == [0, 9]
    assert oom_kills == 1
    assert 0.05 < usage["cpu_seconds"] < 0.2 * seconds + 0.1  # a period's worth, begun at the end
    assert usage["cpu_throttled_seconds"] > 0
    assert 15 << 20 < usage["memory_peak_bytes"] <= 16 << 20
    assert usage["pids_peak"] == 1
    assert victims in (0, 1)  # the kernel's log is closed to the user where kernel.dmesg_restrict is set
    assert removed == [True, True]


THROTTLED = """
import mmap
h = detect(sys.argv[1])
h.create_run(run_name(os.getpid()))
group = h.create("1", Caps(io=(IoCap.of(sys.argv[2], None, 4 << 20),)))
def work():
    fd = os.open(sys.argv[2] + "/file", os.O_CREAT | os.O_WRONLY | os.O_DIRECT)
    for _ in range(3): os.write(fd, mmap.mmap(-1, 1 << 20))
start = time.monotonic()
inside(group, work)
answer([time.monotonic() - start, read_usage(group).to_json()])
h.remove_run()
"""


@requires("cgroup-io", "disk")
def test_io_is_throttled_and_counted_as_the_user(handed_over: str) -> None:
    with user_directory() as directory:
        seconds, usage = as_user(THROTTLED, handed_over, str(directory))
    assert seconds > 0.5
    assert usage["io_write_bytes"] == pytest.approx(3 << 20, rel=0.1)


def test_stale_run_of_the_user_is_swept_by_the_user(handed_over: str) -> None:
    left = as_user("h = detect(sys.argv[1]); h.create_run(run_name(os.getpid())); answer(h.run_directories)", handed_over)
    swept = as_user("answer(sweep_stale(detect(sys.argv[1]).bases))", handed_over)
    assert sorted(swept) == sorted(left)
