"""The template of a sandbox's ``/dev``: made once per run, bound into each sandbox.

Docker's and bubblewrap's minimum: six harmless devices, the links into /proc/self/fd, mount points for what
each sandbox has of its own (pts, shm, mqueue). Nothing of the host's devtmpfs else, above all no disks.
"""

from __future__ import annotations

import os
import stat
from typing import Final

from pytest_isolate.kernel.mounts import bind

__all__ = ["DISK", "make_devices"]

_DEVICES: Final = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
}

_LINKS: Final = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}

DISK: Final = "disk"
"""Where rootless sandboxes have a directory of their writable layer, for statvfs(2): their ``/`` isn't on it."""

_DIRECTORIES: Final = ("pts", "shm", "mqueue")


def make_devices(directory: str, *, disk: bool) -> None:
    """Fill `directory`, with DISK where `disk` says so, on a file system of the caller's that allows devices or at least binds.

    mknod needs CAP_MKNOD in the initial user namespace; without it the host's nodes are bound.

    Raises:
        OSError: naming the node.
    """
    for name in (*_DIRECTORIES, DISK) if disk else _DIRECTORIES:
        os.mkdir(f"{directory}/{name}", 0o755)
    for name, target in _LINKS.items():
        os.symlink(target, f"{directory}/{name}")
    nodes = _nodes_allowed(f"{directory}/null")
    for name, (major, minor) in _DEVICES.items():
        path = f"{directory}/{name}"
        if nodes:
            os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(major, minor))
            os.chmod(path, 0o666)  # noqa: S103 - everybody's, against the umask
        else:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666))
            bind(f"/dev/{name}", path)


def _nodes_allowed(path: str) -> bool:
    """Whether a node can be made at `path` and then opened: a device cgroup may allow the one and not the other."""
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(*_DEVICES["null"]))
    except OSError:
        return False
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
    except OSError:
        return False
    finally:
        os.unlink(path)
    return True
