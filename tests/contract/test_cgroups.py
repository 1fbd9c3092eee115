"""Cgroups of this machine, whatever version: each cap is run into, each figure read back."""

from __future__ import annotations

import errno
import mmap
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_isolate.kernel.cgroup import (
    Caps,
    Group,
    Hierarchy,
    IoCap,
    oom_victims,
    read_events,
    read_usage,
)
from pytest_isolate.model.errors import SetupError
from tests.support.capabilities import requires
from tests.support.cgroups import allocate, burn, directories_of, ended, inside, own_hierarchy, start_inside

pytestmark = requires("root")
MIB = 1 << 20


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    assert directories_of(os.getpid()) == []
    yield
    assert directories_of(os.getpid()) == []


@pytest.fixture
def hierarchy() -> Iterator[Hierarchy]:
    with own_hierarchy() as hierarchy:
        yield hierarchy


@requires("cgroup-cpu")
def test_cpu_cap_of_20_percent_gives_a_fifth_of_the_time(hierarchy: Hierarchy) -> None:
    group = hierarchy.create("box", Caps(cpu=0.2))
    wall = inside(group, lambda: burn(1.5)).result
    usage = read_usage(group)
    assert usage.cpu_seconds
    assert usage.cpu_throttled_seconds
    assert 0.1 < usage.cpu_seconds / wall < 0.3
    assert usage.cpu_throttled_seconds > 0.3


def test_cpu_figures_without_a_cap_add_up(hierarchy: Hierarchy) -> None:
    group = hierarchy.create("box", Caps())
    inside(group, lambda: burn(0.2))
    usage = read_usage(group)
    assert usage.cpu_seconds
    assert usage.cpu_user_seconds
    assert usage.cpu_system_seconds is not None
    assert usage.cpu_user_seconds + usage.cpu_system_seconds == pytest.approx(usage.cpu_seconds)
    assert usage.cpu_user_seconds > usage.cpu_system_seconds
    assert usage.cpu_throttled_seconds == 0


@requires("cgroup-memory", "kmsg")
def test_oom_of_a_child_kills_it_and_names_it(hierarchy: Hierarchy) -> None:
    group = hierarchy.create("box", Caps(memory=16 * MIB))

    def work() -> int:
        Path("/proc/self/comm").write_text("eat)er, 1")
        return allocate(64 * MIB)

    child = inside(group, work)
    assert child.signal == signal.SIGKILL
    assert read_events(group).oom_kills == 1
    assert read_usage(group).oom_kills == 1
    assert [(victim.name, victim.pid) for victim in oom_victims(group)] == [("eat)er, 1", child.pid)]


@requires("cgroup-memory", "kmsg")
def test_oom_of_a_grandchild_leaves_the_child_and_names_the_grandchild(hierarchy: Hierarchy) -> None:
    group = hierarchy.create("box", Caps(memory=24 * MIB))

    def work() -> list[int]:
        pid = os.fork()
        if pid == 0:
            Path("/proc/self/comm").write_text("grandchild")
            allocate(64 * MIB)
            os._exit(0)
        return [pid, os.WTERMSIG(os.waitpid(pid, 0)[1])]

    child = inside(group, work)
    assert child.status == 0
    grandchild, number = child.result
    assert number == signal.SIGKILL
    assert read_events(group).oom_kills == 1
    assert [(victim.name, victim.pid) for victim in oom_victims(group)] == [("grandchild", grandchild)]


@requires("cgroup-memory")
def test_victims_of_another_box_are_not_ours(hierarchy: Hierarchy) -> None:
    group, other = hierarchy.create("1", Caps(memory=16 * MIB)), hierarchy.create("11", Caps(memory=16 * MIB))
    assert inside(other, lambda: allocate(64 * MIB)).signal == signal.SIGKILL
    assert read_events(group).oom_kills == 0
    assert oom_victims(group) == ()


@requires("cgroup-memory")
def test_memory_peak_is_read_back_after_the_process_ended(hierarchy: Hierarchy) -> None:
    group = hierarchy.create("box", Caps(memory=128 * MIB))
    inside(group, lambda: allocate(32 * MIB))
    if group.peak_sampled:
        pytest.skip("the kernel keeps no peak (Linux 5.19): whoever waits for the process samples it")
    assert 32 * MIB <= (read_usage(group).memory_peak_bytes or 0) < 48 * MIB


@requires("cgroup-pids")
def test_pids_cap_refuses_the_fork_and_is_counted(hierarchy: Hierarchy) -> None:
    group = hierarchy.create("box", Caps(pids=4))

    def work() -> list[int]:
        children = []
        try:
            for _ in range(10):
                if (pid := os.fork()) == 0:
                    signal.pause()
                children.append(pid)
        except OSError as error:
            return [error.errno or 0, len(children)]
        finally:
            for pid in children:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        return [0, len(children)]

    assert inside(group, work).result == [errno.EAGAIN, 3]
    assert read_events(group).pids_cap_hits == 1
    assert read_usage(group).pids_peak in (4, None)  # on v2 since Linux 6.1


def direct_write(path: Path, size: int) -> float:
    """Seconds that writing `size` bytes past the page cache took."""
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_DIRECT)
    start = time.monotonic()
    for _ in range(size // MIB):
        os.write(fd, mmap.mmap(-1, MIB))
    os.close(fd)
    return time.monotonic() - start


@requires("cgroup-io", "disk")
def test_write_throttle_slows_writes_and_bytes_are_counted(hierarchy: Hierarchy, tmp_path: Path) -> None:
    group = hierarchy.create("box", Caps(io=(IoCap.of(str(tmp_path), None, 4 * MIB),)))
    seconds = inside(group, lambda: direct_write(tmp_path / "file", 3 * MIB)).result
    assert seconds > 0.5
    assert read_usage(group).io_write_bytes == pytest.approx(3 * MIB, rel=0.1)


@requires("cgroup-io", "disk")
def test_io_without_a_cap_is_counted(hierarchy: Hierarchy, tmp_path: Path) -> None:
    group = hierarchy.create("box", Caps())

    def work() -> int:
        direct_write(tmp_path / "file", 2 * MIB)
        fd = os.open(tmp_path / "file", os.O_RDONLY | os.O_DIRECT)
        return os.readv(fd, [mmap.mmap(-1, MIB)])

    assert inside(group, work).result == MIB
    usage = read_usage(group)
    assert usage.io_write_bytes == pytest.approx(2 * MIB, rel=0.1)
    assert usage.io_read_bytes == MIB


def test_group_without_directories_is_joined_and_read_as_unknown() -> None:
    group = Group("box")
    assert inside(group, lambda: 1).result == 1
    assert read_usage(group).to_json() == {}
    assert read_events(group).oom_kills is None


def test_busy_group_is_removed_later(hierarchy: Hierarchy) -> None:
    group = hierarchy.create("box", Caps())
    reading, writing = os.pipe()
    child = start_inside(group, lambda: len(os.read(reading, 1)))
    wait_until_joined(group)
    start = time.monotonic()
    assert not hierarchy.remove(group)
    assert not hierarchy.remove_run()
    assert time.monotonic() - start < 0.1
    os.write(writing, b"x")
    ended(*child)
    assert hierarchy.remove(group)
    assert hierarchy.remove(group)  # what is gone is removed
    os.close(reading)
    os.close(writing)


def wait_until_joined(group: Group) -> None:
    deadline = time.monotonic() + 5
    while not Path(group.directories()[-1], "cgroup.procs").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_cgroups_made_inside_are_removed_with_the_group(hierarchy: Hierarchy) -> None:
    group = hierarchy.create("box", Caps())
    for path in group.directories():
        os.makedirs(f"{path}/inner/most")
    assert hierarchy.remove(group)
    assert not any(os.path.exists(path) for path in group.directories())


def test_two_boxes_of_one_name_are_refused_and_the_first_is_kept(hierarchy: Hierarchy) -> None:
    group = hierarchy.create("box", Caps())
    with pytest.raises(SetupError, match="EEXIST"):
        hierarchy.create("box", Caps())
    assert all(os.path.isdir(path) for path in group.directories())
