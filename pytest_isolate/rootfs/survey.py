"""What the host has: the mounts to put back, the cgroup hierarchies, what of /proc and /sys to mask.

Looks only, mounts nothing; done once per run, so it may take its time (a few milliseconds).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from pytest_isolate.kernel.mounts import Mount, mount_id
from pytest_isolate.model.errors import SetupError
from pytest_isolate.model.paths import within

__all__ = ["ENGINES", "MASKED", "READ_ONLY", "Hierarchy", "Submount", "around", "depth", "hierarchies", "resolved", "submounts"]

CGROUP_ROOT: Final = "/sys/fs/cgroup"

OWN_TREES: Final = ("/proc", "/sys", "/dev")
"""Every sandbox has these of its own."""

ENGINES: Final = (
    "/run/containerd",
    "/run/docker",
    "/var/lib/containerd",
    "/var/lib/containers",
    "/var/lib/docker",
    "/var/lib/kubelet",
)
"""Where container engines mount what belongs to their containers."""

KERNEL_TYPES: Final = frozenset(
    {
        "autofs", "binder", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs",
        "efivarfs", "fusectl", "hugetlbfs", "mqueue", "nfsd", "nsfs", "proc", "pstore", "resctrl", "rpc_pipefs",
        "securityfs", "selinuxfs", "smackfs", "sysfs", "tracefs",
    }
)  # fmt: skip
"""File systems that are windows into the kernel: not carried into a sandbox, wherever they are mounted."""

READ_ONLY: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
"""Docker's list (moby, oci/defaults.go): inside, root may read them, not write."""

MASKED: Final = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
"""What a container's root must not even read, in Docker's choice."""


def depth(path: str) -> int:
    """Number of components, 0 for the root: what is mounted deeper is mounted later."""
    return 0 if path == "/" else path.count("/")


def around(path: str, mounts: Sequence[Mount]) -> Mount | None:
    """The mount that `path` lies on, as path resolution finds it: what another mount covers is passed by."""
    ids = {mount.id for mount in mounts}
    found = next((mount for mount in mounts if mount.parent not in ids or mount.parent == mount.id), None)
    while found:
        children = [mount for mount in mounts if mount.parent == found.id != mount.id and within(path, mount.point)]
        if not children:
            break
        found = min(children, key=lambda mount: depth(mount.point))
    return found


def resolved(key: str, path: str) -> str:
    """`path` without symbolic links, which would lead a mount out of the tree that is being built."""
    try:
        return os.path.realpath(path, strict=True)
    except OSError as error:
        hint = f"make {path} on the host before the test asks for it, or take it out of {key}="
        raise SetupError(f"{key}=", path, error.errno or 0, hint) from error


@dataclass(frozen=True, slots=True)
class Submount:
    """A mount of the host below ``/`` that a sandbox gets back.

    Attributes:
        point: its path.
        directory: False for a single file bound over another (as a container's /etc/hosts).
        readonly: on the host too.
        flags: MS_NOSUID, MS_NODEV, MS_NOEXEC on the host.
        mode, uid, gid: of its root directory, as the caller's user namespace sees them.
    """

    point: str
    directory: bool
    readonly: bool
    flags: int
    mode: int
    uid: int
    gid: int


def submounts(mounts: Iterable[Mount]) -> tuple[Submount, ...]:
    """The visible mounts of real file systems below ``/``, shallow ones first.

    Left out: /proc, /sys, /dev and windows into the kernel; mounts that others cover, and those that the
    caller can't reach, which nobody inside could reach either.
    """
    found = []
    for mount in mounts:
        if mount.point == "/" or mount.fstype in KERNEL_TYPES or any(within(mount.point, own) for own in OWN_TREES):
            continue
        try:
            fd = os.open(mount.point, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            if mount_id(fd) != mount.id:
                continue
            status = os.fstat(fd)
        except OSError:  # a dead network or FUSE server: its mount point would hang or fail inside too
            continue
        finally:
            os.close(fd)
        is_directory = stat.S_ISDIR(status.st_mode)
        mode = stat.S_IMODE(status.st_mode)
        found.append(Submount(mount.point, is_directory, mount.readonly, mount.flags, mode, status.st_uid, status.st_gid))
    return tuple(sorted(found, key=lambda submount: depth(submount.point)))


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """A cgroup hierarchy that the host has mounted below /sys/fs/cgroup, to be mounted again inside.

    Attributes:
        point: its path on the host, and inside.
        fstype: ``cgroup`` or ``cgroup2``.
        options: v1: the controllers or the name that identify it.
    """

    point: str
    fstype: str
    options: str


_V1_FLAGS: Final = frozenset({"rw", "ro", "xattr", "clone_children", "noprefix", "cpuset_v2_mode", "favordynmods"})


def hierarchies(mounts: Iterable[Mount]) -> tuple[Hierarchy, ...]:
    """Those at their usual place; each only once, however often it is mounted."""
    found: dict[tuple[str, str], Hierarchy] = {}
    for mount in mounts:
        if mount.fstype not in ("cgroup", "cgroup2") or not within(mount.point, CGROUP_ROOT):
            continue
        if mount.fstype == "cgroup":
            wanted = [option for option in mount.options if option not in _V1_FLAGS and not option.startswith("release_agent=")]
            options = ",".join(["none", *wanted] if all("=" in option for option in wanted) else wanted)
        else:
            options = ""
        found.setdefault((mount.fstype, options), Hierarchy(mount.point, mount.fstype, options))
    return tuple(sorted(found.values(), key=lambda hierarchy: depth(hierarchy.point)))
