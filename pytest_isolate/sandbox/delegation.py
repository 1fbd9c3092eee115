"""Gets the run a cgroup to work in where systemd runs and hasn't delegated one: cgroup v2 on laptops and servers.

What a test forks must be able to join the sandboxes' groups, and moving a process takes write access to the
common ancestor of both groups (cgroup-v2.rst, Delegation Containment). So pytest itself moves, to a scope that it shares with
the builder; under xdist the controller moves before it starts its workers, which are born there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_isolate.kernel.cgroup_mounts import cgroup_mounts, own_cgroups
from pytest_isolate.kernel.cgroup_runs import run_name
from pytest_isolate.kernel.cgroup_v2_base import needs_no_return
from pytest_isolate.kernel.cgroup_v2_place import is_delegated, own_directory, systemd_runs

__all__ = ["Delegation", "obtain", "own_scope"]

_V1_NAMES = ("cpu", "memory", "pids", "blkio")


@dataclass(frozen=True, slots=True)
class Delegation:
    """What came of it.

    Attributes:
        scope: the unit that pytest was moved to; empty if it stays where it is.
        refused: why there is none, empty if none was needed.
    """

    scope: str = ""
    refused: str = ""


def own_scope() -> str:
    """The scope made for a run that the calling process is in; empty if it is in none."""
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        parts = own_cgroups(file.read()).get("", "").split("/")
    return next((part for part in parts if needs_no_return(part)), "")


def obtain(pids: Sequence[int], delegated: str | None) -> Delegation:
    """Move the calling process and `pids` to a scope of systemd's, if the run needs one.

    Not where all controllers are on v1, where the caller's cgroup is delegated already, where the user names a
    directory, and where systemd isn't what runs.
    """
    if delegated is not None:
        return Delegation()
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        own = own_cgroups(file.read())
    if all(name in own for name in _V1_NAMES) or not systemd_runs():
        return Delegation()
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        mounts = list(cgroup_mounts(file.read()))
    directory = own_directory(mounts, own)
    if not directory or is_delegated(directory):
        return Delegation()
    from pytest_isolate.sandbox.systemd import SystemdRefused, start_scope

    scope = f"{run_name(os.getpid())}.scope"
    description = f"tests in sandboxes (pytest, pid {os.getpid()})"
    try:
        start_scope(scope, description, [os.getpid(), *pids], user=os.geteuid() != 0)
    except SystemdRefused as error:
        return Delegation(refused=str(error))
    return Delegation(scope)
