"""What is v1's own, on this machine's hierarchies: files, order of settings, delegation by directory."""

from __future__ import annotations

import os
import subprocess
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
    read_usage,
    run_name,
)
from pytest_isolate.kernel.namespaces import CLONE_NEWNS
from pytest_isolate.kernel.syscalls import unshare
from pytest_isolate.model.errors import MissingCapability, SetupError
from tests.support.capabilities import on_layout, requires
from tests.support.cgroups import burn, directories_of, inside, own_hierarchy

pytestmark = [requires("root"), on_layout("v1", "hybrid", "mixed")]
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


def text(group: Group, controller: str, name: str) -> str:
    path = group.file(controller, name)
    assert path
    return Path(path).read_text().strip()


@requires("cgroup-cpu")
def test_quota_and_period_are_those_of_the_share(hierarchy: Hierarchy) -> None:
    group = hierarchy.create("box", Caps(cpu=0.2))
    assert (text(group, "cpu", "cpu.cfs_quota_us"), text(group, "cpu", "cpu.cfs_period_us")) == ("20000", "100000")


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


@on_layout("v1", "hybrid")
@requires("cgroup-memory", "cgroup-swap")
@pytest.mark.parametrize("swap,total", [(None, 16 * MIB), (0, 16 * MIB), (8 * MIB, 24 * MIB)])
def test_swap_is_capped_on_top_of_memory(hierarchy: Hierarchy, swap: int | None, total: int) -> None:
    group = hierarchy.create("box", Caps(memory=16 * MIB, swap=swap))
    assert text(group, "memory", "memory.limit_in_bytes") == str(16 * MIB)
    assert text(group, "memory", "memory.memsw.limit_in_bytes") == str(total)


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
