"""What a v1 group used and which caps it ran into, from the group's directories alone.

A file that this kernel doesn't have leaves its figure None. A group that is gone altogether is not an error here
either; its figures were to be read before.
"""

from __future__ import annotations

from pytest_isolate.kernel.block import is_stacked
from pytest_isolate.kernel.cgroup_files import entry, number, text
from pytest_isolate.kernel.cgroup_types import Group, GroupEvents, Moment
from pytest_isolate.model.usage import Usage

__all__ = ["anonymous_memory", "count_tasks", "read_events", "read_moment", "read_usage"]


def read_usage(group: Group) -> Usage:
    """The figures of `group` so far; those of its descendants are in them.

    Notes:
        Memory is the charge: heap touched, page cache first read, tmpfs.
        Block I/O is what this group's own tasks sent to the disks: on v1 a buffered write that the kernel writes
        back later is charged to the root group, so of those only what was synced (fsync) is seen.
    """
    total, user, system = _cpu_times(group)
    throttled = entry(group.file("cpu", "cpu.stat"), "throttled_time")
    io_read, io_write = _io(group) if group.io_counted else (None, None)
    return Usage(
        cpu_seconds=total,
        cpu_user_seconds=user,
        cpu_system_seconds=system,
        cpu_throttled_seconds=None if throttled is None else throttled / 1e9,
        memory_peak_bytes=number(group.file("memory", "memory.max_usage_in_bytes")),
        pids_peak=number(group.file("pids", "pids.peak")),
        io_read_bytes=io_read,
        io_write_bytes=io_write,
        oom_kills=entry(group.file("memory", "memory.oom_control"), "oom_kill"),
    )


def count_tasks(group: Group) -> int | None:
    """Threads in `group`, ended ones that nobody has waited for yet included; None where they aren't counted."""
    return number(group.file("pids", "pids.current"))


def anonymous_memory(group: Group) -> int | None:
    """Bytes of anonymous pages charged at this moment, the group's descendants' included; None where memory isn't on v1."""
    return entry(group.file("memory", "memory.stat"), "total_rss")


def read_moment(group: Group) -> Moment:
    """What `group` has now: four files."""
    cpu = number(group.file("cpuacct", "cpuacct.usage"))
    throttled = entry(group.file("cpu", "cpu.stat"), "throttled_time")
    return Moment(
        memory_bytes=number(group.file("memory", "memory.usage_in_bytes")),
        cpu_seconds=None if cpu is None else cpu / 1e9,
        cpu_throttled_seconds=None if throttled is None else throttled / 1e9,
        oom_kills=entry(group.file("memory", "memory.oom_control"), "oom_kill"),
    )


def _cpu_times(group: Group) -> tuple[float | None, float | None, float | None]:
    """Total, user and system seconds.

    The total is exact (nanoseconds run); the parts come from the timer tick, which a short test may never see.
    So the total is split in their proportion, as the kernel does for getrusage(2) (cputime_adjust in
    kernel/sched/cputime.c): all user while there is no system tick.
    """
    total = number(group.file("cpuacct", "cpuacct.usage"))
    if total is None:
        return None, None, None
    user = number(group.file("cpuacct", "cpuacct.usage_user"))
    system = number(group.file("cpuacct", "cpuacct.usage_sys"))
    if user is None or system is None:  # before Linux 4.7
        return total / 1e9, None, None
    share = system / (user + system) if system else 0.0
    return total / 1e9, total * (1 - share) / 1e9, total * share / 1e9


def _io(group: Group) -> tuple[int | None, int | None]:
    """Bytes read and written, summed over disks; a stacked device's bytes count once, on what it stands on."""
    table = text(group.file("blkio", "blkio.throttle.io_service_bytes_recursive"))  # Linux 4.15
    if table is None:
        table = text(group.file("blkio", "blkio.throttle.io_service_bytes"))
    if table is None:
        return None, None
    found: dict[str, dict[str, int]] = {}
    for line in table.splitlines():
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
        oom_kills=entry(group.file("memory", "memory.oom_control"), "oom_kill"),
        pids_cap_hits=entry(group.file("pids", "pids.events"), "max"),
    )
