"""Control groups: caps on what a sandbox may use and counters of what it did use.

The entry to the cgroup modules. `detect` finds how this machine gives cgroups; the builder makes a run's
subtree and the sandboxes' directories through the `Hierarchy` it returns. The other processes need only the
`Group` that comes of it, plain data: the forked test process calls `join`, the pytest process `read_usage`,
`read_events`, `oom_victims`, and `clean_up` when the builder is gone.

    cgroup_mounts    where the controllers are, each on its own
    cgroup_runs      names of runs, removal, what dead runs left
    cgroup_types     caps, group, events, the interface
    cgroup_v1        v1 and the v1 half of a hybrid host; cgroup_v1_usage reads its figures
    kmsg             who was killed for want of memory
    block            the disk behind a path
"""

from __future__ import annotations

from collections.abc import Collection

from pytest_isolate.kernel import kmsg
from pytest_isolate.kernel.cgroup_mounts import V1_NAMES, cgroup_mounts, delegation_hint, layout, own_cgroups, place_of
from pytest_isolate.kernel.cgroup_runs import clean_up, run_name, sweep_stale
from pytest_isolate.kernel.cgroup_types import Caps, Group, GroupEvents, Hierarchy, IoCap, OomVictim
from pytest_isolate.kernel.cgroup_v1 import V1Hierarchy, join
from pytest_isolate.kernel.cgroup_v1_usage import count_tasks, read_events, read_usage
from pytest_isolate.model.errors import SpecError

__all__ = [
    "Caps",
    "Group",
    "GroupEvents",
    "Hierarchy",
    "IoCap",
    "OomVictim",
    "clean_up",
    "count_tasks",
    "detect",
    "join",
    "oom_victims",
    "read_events",
    "read_usage",
    "run_name",
    "sweep_stale",
]


def detect(delegated: str | None = None) -> Hierarchy:
    """How this machine gives the calling process cgroups. Makes nothing yet.

    What isn't there is no error here: it is in the hierarchy's `lacking`, and an error for those who ask for it.

    Args:
        delegated: ``--isolate-cgroup``: directory in which to work, relative to each hierarchy's mount point
            (``ci/isolate`` is /sys/fs/cgroup/memory/ci/isolate and so on); None: the caller's own cgroup.

    Raises:
        SpecError: `delegated` can't be meant.
    """
    if delegated is not None and (not delegated.strip("/") or ".." in delegated.split("/")):
        raise SpecError("cgroup", f"{delegated!r} names no directory below the mount points", "a path like ci/isolate")
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        mounts = list(cgroup_mounts(file.read()))
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        own = own_cgroups(file.read())
    places = {name: place_of(name, mounts, own, delegated) for name in V1_NAMES}
    return V1Hierarchy(layout(mounts, own), places, delegation_hint(mounts, own, delegated or "isolate"))


def oom_victims(group: Group, known: Collection[int] = ()) -> tuple[OomVictim, ...]:
    """The processes of `group` that were killed for want of memory, as far as the kernel's log can be read.

    Args:
        known: pids in the initial PID namespace of processes known to be the group's, as the test process's: found
            also where the kernel dropped the line that names the cgroup (see `kmsg`).
    """
    return kmsg.oom_victims(f"{group.run}/{group.name}", known)
