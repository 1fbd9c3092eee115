"""The host's UNIX sockets: what must be masked wherever a sandbox sees the host through a read-only bind.

A read-only mount doesn't stop connect(2): the listener behind /run/docker.sock would serve the sandbox. Through
an overlay the same socket answers ECONNREFUSED, since overlay's inode isn't the one that was bound (unix(7)).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from typing import Final

from pytest_isolate.kernel.mounts import Mount
from pytest_isolate.rootfs.survey import KERNEL_TYPES

__all__ = ["host_sockets"]

_RUN: Final = "/run"
_LINE: Final = re.compile(rb"(?:\S+ ){6} *\d+ (/.*)")
"""Num RefCount Protocol Flags Type St Inode Path; the inode is padded, the path may hold blanks."""
_LEVELS: Final = 4
_MOST: Final = 5000


def host_sockets(mounts: Iterable[Mount]) -> tuple[str, ...]:
    """Paths, without symbolic links, of the sockets that can be found.

    /proc/net/unix lists those bound in the caller's network namespace. A service in another one (rootless
    Docker, the daemon outside a container) isn't there, so /run is searched as well, a few levels deep, and the
    mount points that are files. What only others can reach is left out.
    """
    found = set()
    for path in (*_bound(), *_below_run(), *_mounted(mounts)):
        try:
            if stat.S_ISSOCK(os.stat(path).st_mode):
                found.add(os.path.realpath(path))
        except OSError:  # removed, in another root, or behind a directory that is closed to us
            continue
    return tuple(sorted(found))


def _bound() -> Iterator[str]:
    """Names in /proc/net/unix that are absolute paths; abstract ones start with ``@``."""
    try:
        with open("/proc/net/unix", "rb") as file:
            lines = file.read().splitlines()[1:]
    except OSError:
        return
    for line in lines:
        if match := _LINE.match(line):
            yield os.fsdecode(match[1])


def _mounted(mounts: Iterable[Mount]) -> Iterator[str]:
    return (mount.point for mount in mounts if mount.fstype not in KERNEL_TYPES)


def _below_run() -> Iterator[str]:
    pending = [(_RUN, 1)]
    seen = 0
    while pending:
        directory, level = pending.pop()
        try:
            entries = list(os.scandir(directory))
        except OSError:
            continue
        for entry in entries:
            seen += 1
            if seen > _MOST:
                return
            try:
                if entry.is_dir(follow_symlinks=False):
                    if level < _LEVELS:
                        pending.append((entry.path, level + 1))
                elif not entry.is_file(follow_symlinks=False) and not entry.is_symlink():
                    yield entry.path
            except OSError:
                continue
