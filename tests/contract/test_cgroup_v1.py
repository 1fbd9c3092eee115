"""Cgroup v1 and hybrid on this machine's own hierarchies: each cap is run into, each figure read back."""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pytest_isolate.kernel.cgroup import (
    Caps,
    Group,
    Hierarchy,
    IoCap,
    detect,
    join,
    oom_victims,
    read_events,
    read_usage,
    run_name,
)
from pytest_isolate.kernel.namespaces import CLONE_NEWNS
from pytest_isolate.kernel.syscalls import unshare
from pytest_isolate.model.errors import MissingCapability, SetupError
from tests.support.capabilities import requires
from tests.support.cgroups import directories_of, ended, inside, start_inside

pytestmark = requires("root")
MIB = 1 << 20
numbers = itertools.count()


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    assert directories_of(os.getpid()) == []
    yield
    assert directories_of(os.getpid()) == []


@pytest.fixture
def hierarchy() -> Iterator[Hierarchy]:
    hierarchy = detect()
    hierarchy.create_run(run_name(os.getpid(), next(numbers)))  # the kernel's log outlives a run: names must not recur
    yield hierarchy
    assert hierarchy.remove_run()


def text(group: Group, controller: str, name: str) -> str:
    path = group.file(controller, name)
    assert path
    return Path(path).read_text().strip()


def burn(seconds: float) -> float:
    """Wall time of `seconds` and a little more of pure computing."""
    start = time.monotonic()
    while time.monotonic() < start + seconds:
        sum(range(1000))
    return time.monotonic() - start


def allocate(size: int) -> int:
    return len(bytearray(b"x") * size)


@requires("cgroup-cpu")
def test_cpu_cap_of_20_percent_gives_a_fifth_of_the_time(hierarchy: Hierarchy) -> None:
    group = hierarchy.create("box", Caps(cpu=0.2))
    wall = inside(group, lambda: burn(0.7)).result
    usage = read_usage(group)
    assert usage.cpu_seconds
    assert usage.cpu_throttled_seconds
    assert 0.1 < usage.cpu_seconds / wall < 0.3
    assert usage.cpu_throttled_seconds > 0.3


@requires("cgroup-cpu")
def test_quota_and_period_are_those_of_the_share(hierarchy: Hierarchy) -> None:
    group = hierarchy.create("box", Caps(cpu=0.2))
    assert (text(group, "cpu", "cpu.cfs_quota_us"), text(group, "cpu", "cpu.cfs_period_us")) == ("20000", "100000")


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


@requires("cgroup-cpu")
def test_cpu_cap_above_that_of_the_cgroup_around_is_given_by_the_latter(delegated: Any) -> None:
    base = delegated("cpu", "cpuacct")
    Path("/sys/fs/cgroup/cpu", base, "cpu.cfs_quota_us").write_text("50000")
    hierarchy = detect(base)
    hierarchy.create_run(run_name(os.getpid()))
    try:
        group = hierarchy.create("box", Caps(cpu=1))
        assert text(group, "cpu", "cpu.cfs_quota_us") == "-1"
        wall = inside(group, lambda: burn(0.5)).result
        assert (read_usage(group).cpu_seconds or 0) / wall < 0.75
    finally:
        assert hierarchy.remove_run()


@pytest.fixture
def delegated() -> Iterator[Any]:
    """Makes a directory in some hierarchies only; returns its path for `detect`."""
    path = f"h-test-{os.getpid()}"
    made = []

    def make(*controllers: str) -> str:
        for controller in controllers:
            directory = Path("/sys/fs/cgroup", controller, path)
            directory.mkdir(exist_ok=True)
            made.append(directory)
        return path

    yield make
    for directory in dict.fromkeys(made):
        with suppress(FileNotFoundError):
            directory.rmdir()


@requires("cgroup-pids")
def test_controllers_are_decided_one_by_one(delegated: Any) -> None:
    hierarchy = detect(delegated("pids"))
    hierarchy.create_run(run_name(os.getpid()))
    try:
        assert hierarchy.controllers == {"pids"}
        assert set(hierarchy.lacking) == {"cgroup-cpu", "cgroup-memory", "cgroup-io"}
        assert hierarchy.missing(Caps(pids=5)) is None
        group = hierarchy.create("box", Caps(pids=5))
        assert [controller for controller, _path in group.v1] == ["pids"]
        inside(group, lambda: 0)
        usage = read_usage(group)
        assert usage.to_json() == {"pids_peak": usage.pids_peak}  # what isn't known is absent, never zero
    finally:
        assert hierarchy.remove_run()


@requires("cgroup-pids")
def test_cap_of_a_missing_controller_is_refused_and_leaves_nothing(delegated: Any) -> None:
    hierarchy = detect(delegated("pids"))
    hierarchy.create_run(run_name(os.getpid()))
    try:
        with pytest.raises(MissingCapability) as caught:
            hierarchy.create("box", Caps(pids=5, memory=64 * MIB, swap=0))
        assert (caught.value.capability, caught.value.keys) == ("cgroup-memory", ["memory", "swap"])
        assert "doesn't exist" in caught.value.why
        assert "install -d" in caught.value.hint
        assert not os.path.exists(f"{hierarchy.run_directories[0]}/box")
    finally:
        assert hierarchy.remove_run()


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
    assert 32 * MIB <= (read_usage(group).memory_peak_bytes or 0) < 48 * MIB


@requires("cgroup-memory", "cgroup-swap")
@pytest.mark.parametrize("swap,total", [(None, 16 * MIB), (0, 16 * MIB), (8 * MIB, 24 * MIB)])
def test_swap_is_capped_on_top_of_memory(hierarchy: Hierarchy, swap: int | None, total: int) -> None:
    group = hierarchy.create("box", Caps(memory=16 * MIB, swap=swap))
    assert text(group, "memory", "memory.limit_in_bytes") == str(16 * MIB)
    assert text(group, "memory", "memory.memsw.limit_in_bytes") == str(total)


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
    assert read_usage(group).pids_peak == 4


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


@requires("cgroup-io")
def test_refused_cap_names_file_and_remedy_and_leaves_nothing(hierarchy: Hierarchy) -> None:
    with pytest.raises(SetupError, match=r"blkio\.throttle\.write_bps_device: ENODEV") as caught:
        hierarchy.create("box", Caps(io=(IoCap(4000, 1, None, 1),)))
    assert caught.value.hint
    assert [path for path in hierarchy.run_directories if os.path.exists(f"{path}/box")] == []


def test_joining_a_removed_group_says_so(hierarchy: Hierarchy) -> None:
    group = hierarchy.create("box", Caps())
    assert hierarchy.remove(group)
    with pytest.raises(SetupError, match=r"join cgroup /.*/box/tasks: ENOENT") as caught:
        join(group)
    assert "removed" in caught.value.hint


def test_join_moves_into_every_hierarchy(hierarchy: Hierarchy) -> None:
    group = hierarchy.create("box", Caps())
    lines = inside(group, Path("/proc/self/cgroup").read_text).result.splitlines()
    paths = {name: line.split(":", 2)[2] for line in lines for name in line.split(":", 2)[1].split(",")}
    assert [name for name, _path in group.v1 if paths[name].endswith(f"/{group.run}/box")] == [name for name, _ in group.v1]


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
    while not text(group, group.v1[-1][0], "tasks"):
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


def test_read_only_cgroup_mount_says_so_and_names_the_remedy() -> None:
    """As Docker mounts them. In a process of its own, for its mounts."""

    def work() -> list[list[str]]:
        unshare(CLONE_NEWNS)
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        for base in detect().bases:
            point = "/".join(base.split("/")[:5])
            subprocess.run(["mount", "-o", "remount,bind,ro", point], check=True)
        return [[error.why, error.hint] for error in detect().lacking.values()]

    found = inside(Group("box"), work).result
    assert len(found) == 4
    for why, hint in found:
        assert why.endswith("is mounted read-only")
        assert "docker run" in hint


def test_pure_v2_host_lacks_every_controller_and_says_so() -> None:
    """Every v1 mount is taken away in a private mount namespace; the v2 tree of a hybrid host remains."""

    def work() -> list[object]:
        unshare(CLONE_NEWNS)
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        subprocess.run(["umount", "-l", "/sys/fs/cgroup"], check=True)
        subprocess.run(["mount", "-t", "cgroup2", "cgroup2", "/sys/fs/cgroup"], check=True)
        hierarchy = detect()
        hierarchy.create_run(run_name(os.getpid()))
        error = hierarchy.missing(Caps(cpu=0.2))
        assert error
        return [hierarchy.layout, list(hierarchy.controllers), hierarchy.run_directories, error.keys, error.why, error.hint]

    layout, controllers, directories, keys, why, hint = inside(Group("box"), work).result
    assert (layout, controllers, directories, keys) == ("v2", [], [], ["cpu"])
    assert why
    assert hint
