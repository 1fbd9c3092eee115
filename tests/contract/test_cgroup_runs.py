"""Subtrees of runs: those of the dead go, those of the living stay, whoever looks."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from pytest_isolate.kernel.cgroup import Caps, Hierarchy, clean_up, detect, run_name, sweep_stale
from pytest_isolate.sandbox.delegation import obtain
from tests.support.capabilities import on_layout, requires
from tests.support.cgroups import directories_of, ended, own_hierarchy, start_inside

pytestmark = requires("root", "cgroup-pids")
numbers = itertools.count()


@pytest.fixture
def base() -> Iterator[str]:
    """A directory of this test's own in the pids hierarchy, so that sweeps see no other run."""
    obtain((), None)
    bases = detect().bases
    path = f"{next((path for path in bases if '/pids' in path), bases[0])}/h-sweep-{os.getpid()}"
    os.mkdir(path)
    yield path
    assert clean_up([path]) == []


def dead_name() -> str:
    """Name of a run whose process has ended."""
    process = subprocess.Popen(["sleep", "60"])
    name = run_name(process.pid)
    process.kill()
    process.wait()
    return name


def make(base: str, name: str, *boxes: str) -> str:
    for box in boxes or ("",):
        os.makedirs(f"{base}/{name}/{box}")
    return f"{base}/{name}"


def test_name_is_unique_to_process_start_and_number() -> None:
    name = run_name(os.getpid(), 3)
    assert name.startswith(f"pytest-isolate-{os.getpid()}-")
    assert name != run_name(os.getpid(), 4)
    assert name == run_name(os.getpid(), 3)


def test_subtree_of_a_dead_run_is_swept_with_its_boxes(base: str) -> None:
    path = make(base, dead_name(), "1", "2")
    assert sweep_stale([base]) == [path]
    assert not os.path.exists(path)


def test_subtree_whose_pid_was_reused_is_swept(base: str) -> None:
    started = run_name(os.getpid()).split("-")[3]
    path = make(base, run_name(os.getpid()).replace(f"-{started}-", f"-{int(started) - 1}-"))
    assert sweep_stale([base]) == [path]


def test_subtree_of_a_live_run_stays(base: str) -> None:
    path = make(base, run_name(os.getpid()), "1")
    assert sweep_stale([base]) == []
    assert os.path.isdir(f"{path}/1")


def test_run_of_another_pid_namespace_is_not_judged(base: str) -> None:
    path = make(base, dead_name().rpartition(".")[0] + ".1")
    assert sweep_stale([base]) == []
    assert os.path.isdir(path)


@pytest.mark.parametrize("name", ["pytest-isolate-x-1-0.1", "pytest-isolate", "pytest-isolate-1-1-0", "other"])
def test_directory_with_another_name_stays(base: str, name: str) -> None:
    make(base, name)
    assert sweep_stale([base], everywhere=True) == []


def test_stale_subtree_with_a_process_inside_stays_and_the_process_lives(base: str) -> None:
    path = make(base, dead_name(), "1")
    process = subprocess.Popen(["sleep", "60"])
    with open(f"{path}/1/cgroup.procs", "w", encoding="ascii") as file:
        file.write(str(process.pid))
    try:
        assert sweep_stale([base]) == []
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    assert sweep_stale([base]) == [path]


def test_stale_subtree_deep_down_is_found_when_looking_everywhere(base: str) -> None:
    path = make(f"{base}/a/b", dead_name())
    assert sweep_stale([base]) == []
    assert sweep_stale([base], everywhere=True) == [path]


def test_concurrent_sweeps_do_not_disturb_one_another(base: str) -> None:
    for number in range(40):
        make(base, dead_name_of(number), "1", "2")
    code = "import sys; from pytest_isolate.kernel.cgroup import sweep_stale; sweep_stale([sys.argv[1]])"
    sweeps = [subprocess.Popen([sys.executable, "-c", code, base]) for _ in range(3)]
    assert [sweep.wait(20) for sweep in sweeps] == [0, 0, 0]
    assert [entry for entry in os.listdir(base) if entry.startswith("pytest-isolate")] == []


def dead_name_of(number: int) -> str:
    """As `dead_name`, without a process: no process has that pid (above the kernel's largest, 2^22)."""
    return run_name(os.getpid()).replace(f"-{os.getpid()}-", f"-{5_000_000 + number}-")


def test_sweep_of_missing_base_finds_nothing() -> None:
    assert sweep_stale(["/sys/fs/cgroup/no/such"]) == []


MAKER = """
import os, sys
from pytest_isolate.kernel.cgroup import Caps, detect, run_name
from pytest_isolate.sandbox.delegation import obtain
obtain((), None)
hierarchy = detect()
hierarchy.create_run(run_name(os.getpid()))
for box in range(3):
    hierarchy.create(str(box), Caps())
print(*hierarchy.run_directories, sep="|", flush=True)
sys.stdin.read()
"""


def test_directories_of_a_killed_builder_are_cleaned_up_by_the_survivor() -> None:
    builder = subprocess.Popen([sys.executable, "-c", MAKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert builder.stdout
    paths = builder.stdout.readline().strip().split("|")
    assert sorted(directories_of(builder.pid)) == sorted(paths)
    builder.send_signal(signal.SIGKILL)
    builder.communicate()
    assert clean_up(paths) == []
    assert directories_of(builder.pid) == []


@on_layout("v1", "hybrid")  # v2 kills what is inside: the next test
def test_clean_up_waits_for_dying_processes_no_longer_than_asked(hierarchy: Hierarchy) -> None:
    group = hierarchy.create("box", Caps())
    reading, writing = os.pipe()
    child = start_inside(group, lambda: len(os.read(reading, 1)))
    time.sleep(0.1)
    start = time.monotonic()
    assert clean_up(hierarchy.run_directories, timeout=0.1) == list(hierarchy.run_directories)
    assert time.monotonic() - start < 0.5
    os.write(writing, b"x")
    ended(*child)
    assert clean_up(hierarchy.run_directories) == []
    os.close(reading)
    os.close(writing)


@on_layout("v2")
def test_clean_up_ends_what_is_inside(hierarchy: Hierarchy) -> None:
    group = hierarchy.create("box", Caps())
    if not os.path.exists(f"{group.v2}/cgroup.kill"):
        pytest.skip("cgroup.kill is there since Linux 5.14")
    child = start_inside(group, signal.pause)
    time.sleep(0.5)
    assert clean_up(hierarchy.run_directories) == list(hierarchy.run_directories)  # its zombie is ours to wait for
    assert ended(*child).signal == signal.SIGKILL
    assert clean_up(hierarchy.run_directories) == []


@pytest.fixture
def hierarchy() -> Iterator[Hierarchy]:
    with own_hierarchy() as hierarchy:
        yield hierarchy
