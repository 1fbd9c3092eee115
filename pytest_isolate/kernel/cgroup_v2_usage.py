"""What a v2 group used and which caps it ran into, from its one directory (cgroup-v2.rst, Documentation/accounting/psi.rst)."""

from __future__ import annotations

from pytest_isolate.kernel.block import is_stacked
from pytest_isolate.kernel.cgroup_files import entry, number, text
from pytest_isolate.kernel.cgroup_types import Group, GroupEvents, Moment
from pytest_isolate.model.usage import Usage

__all__ = ["anonymous_memory", "count_tasks", "memory_now", "read_events", "read_moment", "read_usage"]


def read_usage(group: Group) -> Usage:
    """The figures of `group` so far; those of its descendants are in them.

    Notes:
        `memory.peak` is there since Linux 5.19: before, the peak must be sampled (`memory_now`).
        Buffered writes are charged when the kernel writes them back, to the group that dirtied the pages.
        Pressure is the time in which at least one task waited ("some").
    """
    cpu = _table(group.v2_file("cpu.stat"))
    read, written = _io(group)
    return Usage(
        cpu_seconds=_seconds(cpu.get("usage_usec")),
        cpu_user_seconds=_seconds(cpu.get("user_usec")),
        cpu_system_seconds=_seconds(cpu.get("system_usec")),
        cpu_throttled_seconds=_seconds(cpu.get("throttled_usec")),
        memory_peak_bytes=number(group.v2_file("memory.peak")),
        pids_peak=number(group.v2_file("pids.peak")),
        io_read_bytes=read,
        io_write_bytes=written,
        oom_kills=entry(group.v2_file("memory.events"), "oom_kill"),
        cpu_pressure_seconds=_pressure(group, "cpu"),
        memory_pressure_seconds=_pressure(group, "memory"),
        io_pressure_seconds=_pressure(group, "io"),
    )


def memory_now(group: Group) -> int | None:
    """Bytes charged at this moment; None where memory isn't on v2."""
    return number(group.v2_file("memory.current"))


def anonymous_memory(group: Group) -> int | None:
    """Bytes of anonymous pages charged at this moment; None where memory isn't on v2."""
    return entry(group.v2_file("memory.stat"), "anon")


def read_moment(group: Group) -> Moment:
    """What `group` has now: three files."""
    cpu = _table(group.v2_file("cpu.stat"))
    return Moment(
        memory_bytes=memory_now(group),
        cpu_seconds=_seconds(cpu.get("usage_usec")),
        cpu_throttled_seconds=_seconds(cpu.get("throttled_usec")),
        oom_kills=entry(group.v2_file("memory.events"), "oom_kill"),
    )


def count_tasks(group: Group) -> int | None:
    """Threads in `group`, ended ones that nobody has waited for yet included; None where they aren't counted."""
    return number(group.v2_file("pids.current"))


def read_events(group: Group) -> GroupEvents:
    """Which caps `group` ran into so far."""
    return GroupEvents(
        oom_kills=entry(group.v2_file("memory.events"), "oom_kill"),
        pids_cap_hits=entry(group.v2_file("pids.events"), "max"),
    )


def _table(path: str | None) -> dict[str, int]:
    lines = (line.partition(" ") for line in (text(path) or "").splitlines())
    return {name: int(value) for name, _, value in lines}


def _seconds(microseconds: int | None) -> float | None:
    return None if microseconds is None else microseconds / 1e6


def _io(group: Group) -> tuple[int | None, int | None]:
    """Bytes read and written, summed over disks; a stacked device's bytes count once, on what it stands on."""
    table = text(group.v2_file("io.stat"))
    if table is None:
        return None, None
    found = {}
    for line in table.splitlines():
        device, *figures = line.split()
        found[device] = dict(figure.split("=", 1) for figure in figures if "=" in figure)
    counted = [figures for device, figures in found.items() if len(found) == 1 or not _is_stacked(device)]
    return sum(int(figures.get("rbytes", 0)) for figures in counted), sum(int(figures.get("wbytes", 0)) for figures in counted)


def _is_stacked(device: str) -> bool:
    major, _, minor = device.partition(":")
    return is_stacked((int(major), int(minor)))


def _pressure(group: Group, resource: str) -> float | None:
    """Seconds of "some" stall; None without CONFIG_PSI or with psi=0, where reading is EOPNOTSUPP."""
    for line in (text(group.v2_file(f"{resource}.pressure")) or "").splitlines():
        if line.startswith("some "):
            return int(line.rpartition("total=")[2]) / 1e6
    return None
