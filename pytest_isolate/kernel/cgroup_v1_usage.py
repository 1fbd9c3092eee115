"""What a v1 group used and which caps it ran into, from the group's directories alone.

A few short files, each opened, read once and closed: some 10 microseconds a file. A file that this kernel
doesn't have leaves its figure None. A group that is gone altogether is not an error here either; its figures
were to be read before.
"""

from __future__ import annotations

import os

from pytest_isolate.kernel.block import is_stacked
from pytest_isolate.kernel.cgroup_types import Group, GroupEvents
from pytest_isolate.model.usage import Usage

__all__ = ["count_tasks", "read_events", "read_usage"]


def _read(path: str | None) -> str | None:
    """The text of a file; None where there is none."""
    if path is None:
        return None
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(fd, 65536).decode()
    except OSError:  # ENODEV: removed between open and read
        return None
    finally:
        os.close(fd)


def _number(path: str | None) -> int | None:
    text = _read(path)
    return None if text is None else int(text)


def _entry(path: str | None, name: str) -> int | None:
    """The number behind `name` in a file of `NAME NUMBER` lines."""
    for line in (_read(path) or "").splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return None


def read_usage(group: Group) -> Usage:
    """The figures of `group` so far; those of its descendants are in them.

    Notes:
        Memory is the charge: heap touched, page cache first read, tmpfs.
        Block I/O is what this group's own tasks sent to the disks: on v1 a buffered write that the kernel writes
        back later is charged to the root group, so of those only what was synced (fsync) is seen.
    """
    total, user, system = _cpu_times(group)
    throttled = _entry(group.file("cpu", "cpu.stat"), "throttled_time")
    io_read, io_write = _io(group) if group.io_counted else (None, None)
    return Usage(
        cpu_seconds=total,
        cpu_user_seconds=user,
        cpu_system_seconds=system,
        cpu_throttled_seconds=None if throttled is None else throttled / 1e9,
        memory_peak_bytes=_number(group.file("memory", "memory.max_usage_in_bytes")),
        pids_peak=_number(group.file("pids", "pids.peak")),
        io_read_bytes=io_read,
        io_write_bytes=io_write,
        oom_kills=_entry(group.file("memory", "memory.oom_control"), "oom_kill"),
    )


def count_tasks(group: Group) -> int | None:
    """Threads in `group`, ended ones that nobody has waited for yet included; None where they aren't counted."""
    return _number(group.file("pids", "pids.current"))


def _cpu_times(group: Group) -> tuple[float | None, float | None, float | None]:
    """Total, user and system seconds.

    The total is exact (nanoseconds run); the parts come from the timer tick, which a short test may never see.
    So the total is split in their proportion, as the kernel does for getrusage(2) (cputime_adjust in
    kernel/sched/cputime.c): all user while there is no system tick.
    """
    total = _number(group.file("cpuacct", "cpuacct.usage"))
    if total is None:
        return None, None, None
    user = _number(group.file("cpuacct", "cpuacct.usage_user"))
    system = _number(group.file("cpuacct", "cpuacct.usage_sys"))
    if user is None or system is None:  # before Linux 4.7
        return total / 1e9, None, None
    share = system / (user + system) if system else 0.0
    return total / 1e9, total * (1 - share) / 1e9, total * share / 1e9


def _io(group: Group) -> tuple[int | None, int | None]:
    """Bytes read and written, summed over disks; a stacked device's bytes count once, on what it stands on."""
    text = _read(group.file("blkio", "blkio.throttle.io_service_bytes_recursive"))  # Linux 4.15
    if text is None:
        text = _read(group.file("blkio", "blkio.throttle.io_service_bytes"))
    if text is None:
        return None, None
    found: dict[str, dict[str, int]] = {}
    for line in text.splitlines():
        parts = line.split()
        if len(parts) == 3:  # "254:0 Read 1048576"; the last line is "Total N"
            found.setdefault(parts[0], {})[parts[1]] = int(parts[2])
    counted = [counts for device, counts in found.items() if len(found) == 1 or not _is_stacked(device)]
    return sum(counts.get("Read", 0) for counts in counted), sum(counts.get("Write", 0) for counts in counted)


def _is_stacked(device: str) -> bool:
    major, _, minor = device.partition(":")
    return is_stacked((int(major), int(minor)))


def read_events(group: Group) -> GroupEvents:
    """Which caps `group` ran into so far."""
    return GroupEvents(
        oom_kills=_entry(group.file("memory", "memory.oom_control"), "oom_kill"),
        pids_cap_hits=_entry(group.file("pids", "pids.events"), "max"),
    )
