"""Namespaces: flags, id maps, loopback. Sources: namespaces(7), user_namespaces(7), clone(2)."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from typing import Final

__all__ = [
    "ALL",
    "CLONE_NEWCGROUP",
    "CLONE_NEWIPC",
    "CLONE_NEWNET",
    "CLONE_NEWNS",
    "CLONE_NEWPID",
    "CLONE_NEWUSER",
    "CLONE_NEWUTS",
    "NAMES",
    "IdMap",
    "loopback_up",
    "own_map",
    "write_id_maps",
]

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWCGROUP: Final = 0x02000000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

NAMES: Final = {
    "user": CLONE_NEWUSER,
    "pid": CLONE_NEWPID,
    "mnt": CLONE_NEWNS,
    "net": CLONE_NEWNET,
    "uts": CLONE_NEWUTS,
    "ipc": CLONE_NEWIPC,
    "cgroup": CLONE_NEWCGROUP,
}
"""The file under /proc/PID/ns of each namespace, and its clone flag."""

ALL: Final = sum(NAMES.values())

IdMap = tuple[tuple[int, int, int], ...]
"""Lines of a uid_map or gid_map: (first inside, first outside, count)."""


def own_map(kind: str) -> IdMap:
    """What the caller's user namespace maps, each inside id to itself; `kind` is ``uid`` or ``gid``."""
    with open(f"/proc/self/{kind}_map", encoding="ascii") as file:
        lines = [line.split() for line in file]
    return tuple((int(inside), int(inside), int(count)) for inside, _outside, count in lines)


def write_id_maps(pid: int, uids: IdMap, gids: IdMap, *, setgroups: bool) -> None:
    """Write the maps of `pid`'s fresh user namespace.

    Args:
        setgroups: False writes ``deny`` first, which an unprivileged writer of gid_map must (Linux 3.19).

    Raises:
        OSError: naming the file.
    """
    files = [("uid_map", _lines(uids)), ("gid_map", _lines(gids))]
    if not setgroups:
        files.insert(1, ("setgroups", "deny"))
    for name, text in files:
        path = f"/proc/{pid}/{name}"
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from None
        finally:
            os.close(fd)


def _lines(id_map: IdMap) -> str:
    return "".join(f"{inside} {outside} {count}\n" for inside, outside, count in id_map)


_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP_RUNNING: Final = 0x1 | 0x40


def loopback_up() -> None:
    """Bring ``lo`` up in the caller's network namespace (the kernel adds 127.0.0.1 and ::1). Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP_RUNNING))
