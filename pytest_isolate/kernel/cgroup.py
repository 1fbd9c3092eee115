"""Control groups: caps on what a sandbox may use and counters of what it did use.

The entry to the cgroup modules. `detect` finds how this machine gives cgroups; the builder makes a run's
subtree and the sandboxes' directories through the `Hierarchy` it returns. The other processes need only the
`Group` that comes of it, plain data: the forked test process calls `join`, the pytest process `read_usage`,
`read_events`, `oom_victims`, and `clean_up` when the builder is gone.

    cgroup_mounts    where the controllers are, each on its own
    cgroup_runs      names of runs, removal, what dead runs left
    cgroup_types     caps, group, events, the interface
    cgroup_files     reading and writing their files
    cgroup_join      how a process gets in
    cgroup_v1        v1 and the v1 half of a hybrid host; cgroup_v1_usage reads its figures
    cgroup_v2        v2 and the v2 half; cgroup_v2_place says where, cgroup_v2_base makes room, cgroup_v2_usage reads its figures
    cgroup_both      the two halves behind one interface
    kmsg             who was killed for want of memory
    block            the disk behind a path
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields
from typing import TypeVar

from pytest_isolate.kernel import cgroup_v1_usage, cgroup_v2_usage, kmsg
from pytest_isolate.kernel.cgroup_both import BothHierarchies
from pytest_isolate.kernel.cgroup_join import join
from pytest_isolate.kernel.cgroup_mounts import V1_NAMES, Place, cgroup_mounts, delegation_hint, layout, own_cgroups, place_of
from pytest_isolate.kernel.cgroup_runs import clean_up, run_name, sweep_stale
from pytest_isolate.kernel.cgroup_types import Caps, Group, GroupEvents, Hierarchy, IoCap, Moment, OomVictim
from pytest_isolate.kernel.cgroup_v1 import V1Hierarchy
from pytest_isolate.kernel.cgroup_v2 import V2Hierarchy
from pytest_isolate.kernel.cgroup_v2_place import unified_hint, unified_place_of
from pytest_isolate.kernel.cgroup_v2_usage import memory_now
from pytest_isolate.model.errors import SpecError
from pytest_isolate.model.usage import Usage

__all__ = [
    "Caps",
    "Group",
    "GroupEvents",
    "Hierarchy",
    "IoCap",
    "Moment",
    "OomVictim",
    "anonymous_memory",
    "clean_up",
    "count_tasks",
    "detect",
    "join",
    "memory_now",
    "oom_victims",
    "read_events",
    "read_moment",
    "read_usage",
    "run_name",
    "sweep_stale",
]


_KERNEL_NAMES = {"cpu": "cpu", "memory": "memory", "pids": "pids", "io": "blkio"}
"""Of the controllers that cap, and what v1 calls them."""


def detect(delegated: str | None = None, command: str = "pytest", refused: str = "") -> Hierarchy:
    """How this machine gives the calling process cgroups. Makes nothing yet.

    What isn't there is no error here: it is in the hierarchy's `lacking`, and an error for those who ask for it.

    Args:
        delegated: ``--isolate-cgroup``: directory in which to work, relative to each hierarchy's mount point
            (``ci/isolate`` is /sys/fs/cgroup/memory/ci/isolate and so on); None: the caller's own cgroup.
        command: how pytest was started, for remedies.
        refused: what systemd answered when it was asked for a scope.

    Raises:
        SpecError: `delegated` can't be meant.
    """
    if delegated is not None and (not delegated.strip("/") or ".." in delegated.split("/")):
        raise SpecError("cgroup", f"{delegated!r} names no directory below the mount points", "a path like ci/isolate")
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        mounts = list(cgroup_mounts(file.read()))
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        own = own_cgroups(file.read())
    places: dict[str, Place] = {name: place_of(name, mounts, own, delegated) for name in V1_NAMES if name in own}
    v1 = V1Hierarchy(places, delegation_hint(mounts, own, delegated or "isolate"))
    others = [name for name, kernel_name in _KERNEL_NAMES.items() if kernel_name not in own]
    v2 = V2Hierarchy(unified_place_of(mounts, own, delegated, refused), others, unified_hint(mounts, command))
    return BothHierarchies(layout(mounts, own), v1, v2)


_Figures = TypeVar("_Figures", Usage, GroupEvents, Moment)


def _first_known(one: _Figures, other: _Figures) -> _Figures:
    """Figure by figure: what `one` doesn't know is asked of `other`."""
    values = {
        field.name: getattr(other, field.name) if (value := getattr(one, field.name)) is None else value for field in fields(one)
    }
    return type(one)(**values)


def read_usage(group: Group) -> Usage:
    """The figures of `group` so far, from whichever version each controller is on."""
    if not group.v2:
        return cgroup_v1_usage.read_usage(group)
    if not group.v1:
        return cgroup_v2_usage.read_usage(group)
    return _first_known(cgroup_v1_usage.read_usage(group), cgroup_v2_usage.read_usage(group))


def read_events(group: Group) -> GroupEvents:
    """Which caps `group` ran into so far."""
    return _first_known(cgroup_v1_usage.read_events(group), cgroup_v2_usage.read_events(group))


def read_moment(group: Group) -> Moment:
    """What `group` has now, from whichever version each controller is on: some 50 microseconds."""
    if not group.v2:
        return cgroup_v1_usage.read_moment(group)
    if not group.v1:
        return cgroup_v2_usage.read_moment(group)
    found = cgroup_v1_usage.read_moment(group)
    known = None not in (found.memory_bytes, found.cpu_seconds, found.cpu_throttled_seconds, found.oom_kills)
    return found if known else _first_known(found, cgroup_v2_usage.read_moment(group))


def count_tasks(group: Group) -> int | None:
    """Threads in `group`, ended ones that nobody has waited for yet included; None where they aren't counted."""
    counted = cgroup_v1_usage.count_tasks(group)
    return cgroup_v2_usage.count_tasks(group) if counted is None else counted


def anonymous_memory(group: Group) -> int | None:
    """Bytes of anonymous pages charged to `group` at this moment; None where they aren't counted."""
    charged = cgroup_v1_usage.anonymous_memory(group)
    return cgroup_v2_usage.anonymous_memory(group) if charged is None else charged


def oom_victims(group: Group, known: Collection[int] = ()) -> tuple[OomVictim, ...]:
    """The processes of `group` that were killed for want of memory, as far as the kernel's log can be read.

    Args:
        known: pids in the initial PID namespace of processes known to be the group's, as the test process's: found
            also where the kernel dropped the line that names the cgroup (see `kmsg`).
    """
    return kmsg.oom_victims(f"{group.run}/{group.name}", known)
