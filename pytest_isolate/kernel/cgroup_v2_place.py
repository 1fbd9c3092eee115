"""Which directory of the v2 tree a run may work in, and the remedy where there is none.

A cgroup has one writer (systemd: Control Group APIs and Delegation, "the single-writer rule"). Where systemd runs,
every cgroup is its own but those that it marked as delegated: such a one, or a scope that systemd made for us (see
`sandbox.delegation`), or one that the user names. Where it doesn't, as in most containers, the caller's own.
"""

from __future__ import annotations

import os
import shlex
from typing import Final

from pytest_isolate.kernel.cgroup_files import read
from pytest_isolate.kernel.cgroup_mounts import CgroupMount, Place, beneath
from pytest_isolate.kernel.cgroup_v2_base import LEAF, needs_no_return

__all__ = ["hand_down_hint", "is_delegated", "own_directory", "systemd_runs", "unified_hint", "unified_place_of"]

_ABSENT_HINT: Final = "boot a kernel that has the controller, or leave the cap out"


def own_directory(mounts: list[CgroupMount], own: dict[str, str]) -> str:
    """The caller's own v2 directory, that of its base where the caller waits in a leaf; empty if no mount shows it."""
    path = own.get("", "")
    if os.path.basename(path) == LEAF:
        path = os.path.dirname(path)
    found = (beneath(mount, path) for mount in mounts if mount.version == 2 and path)
    return next(filter(None, found), "")


def systemd_runs() -> bool:
    """Whether systemd is the system's init: sd_booted(3)."""
    return os.path.isdir("/run/systemd/system")


def is_delegated(directory: str) -> bool:
    """Whether systemd has handed `directory` over to the caller: by its name, if we asked for it, or by the mark it set.

    Another user's is none: pytest in a test of pytest inherits it. The mark is `user.delegate` since systemd 251; before, `trusted.delegate`, which only root can read.
    """
    if not os.access(directory, os.W_OK | os.X_OK):
        return False
    if needs_no_return(directory):
        return True
    for name in ("user.delegate", "trusted.delegate"):
        try:
            if os.getxattr(directory, name) == b"1":
                return True
        except OSError:  # not set, or not for us to read
            continue
    return False


def unified_place_of(mounts: list[CgroupMount], own: dict[str, str], delegated: str | None, refused: str = "") -> Place:
    """The base for the run's subtree in the v2 tree.

    Args:
        delegated: path relative to the mount point, in place of the caller's own cgroup.
        refused: what systemd answered when it was asked for a scope.
    """
    points = [mount.point for mount in mounts if mount.version == 2]
    if not points:
        why = "no v1 hierarchy has the controller and no cgroup2 tree is mounted"
        return Place("", why, "mount -t cgroup2 cgroup2 /sys/fs/cgroup, or leave the cap out")
    if delegated is not None:
        directory = os.path.join(points[0], delegated.strip("/"))
        if os.path.isdir(directory):
            return Place(directory)
        return Place("", f"the delegated directory {directory} doesn't exist")
    directory = own_directory(mounts, own)
    if not directory:
        where = own.get("", "no v2 cgroup")
        return Place("", f"{points[0]} doesn't show {where}, which this process is in")
    if os.path.dirname(directory) == os.path.dirname(points[0]) and not os.path.exists(f"{directory}/cgroup.controllers"):
        return Place("", f"{directory} has no cgroup.controllers", _ABSENT_HINT)
    if systemd_runs() and not is_delegated(directory):
        why = f"{directory} belongs to systemd, which hasn't delegated it"
        return Place("", f"{why} ({refused})" if refused else why)
    return Place(directory)


def unified_hint(mounts: list[CgroupMount], command: str) -> str:
    """What to type so that pytest gets a directory of its own."""
    if systemd_runs():
        user = "" if os.geteuid() == 0 else " --user"
        return f"systemd-run{user} --scope -p Delegate=yes {command}"
    point = next((mount.point for mount in mounts if mount.version == 2), "/sys/fs/cgroup")
    if os.geteuid() == 0:
        return f"mkdir {point}/isolate && echo $$ > {point}/isolate/cgroup.procs && {command}"
    directory = shlex.quote(f"{point}/isolate")
    return (
        f"as root: mkdir {directory} && chown -R {os.geteuid()} {directory} && echo SHELL-PID > {directory}/cgroup.procs; "
        f"then in that shell: {command}"
    )


def hand_down_hint(base: str, name: str) -> str:
    """What to type so that `base` has the controller `name`.

    Where everything is on v2, systemd hands cpu, memory and pids to a user's manager, not io (user@.service, Delegate=); on a hybrid
    host it hands no controller of the v2 tree to anybody.
    """
    if os.geteuid() != 0 and os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        return (
            "as root: mkdir -p /etc/systemd/system/user@.service.d && printf '[Service]\\nDelegate=cpu cpuset io memory pids\\n' "
            "> /etc/systemd/system/user@.service.d/delegate.conf && systemctl daemon-reload; then log in again"
        )
    lacking: list[str] = []
    above = os.path.dirname(base)
    while os.path.exists(f"{above}/cgroup.subtree_control"):
        if name not in read(f"{above}/cgroup.subtree_control").split():
            lacking.insert(0, shlex.quote(above))
        above = os.path.dirname(above)
    if not lacking:
        return f"outside of this container: enable it in every cgroup above (echo +{name} > …/cgroup.subtree_control)"
    begin = "" if os.geteuid() == 0 else "as root: "
    return f"{begin}for cgroup in {' '.join(lacking)}; do echo +{name} > $cgroup/cgroup.subtree_control; done"
