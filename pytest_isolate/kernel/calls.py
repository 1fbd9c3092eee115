"""The system calls that mount plans are made of, behind one interface, so that a plan can be carried out in two ways.

`NOW` calls them. `script.Recorder` writes them down, for a process in which no Python runs.
"""

from __future__ import annotations

import os
from typing import Final, Protocol

from pytest_isolate.kernel.mounts import bind, mount, pivot_root, umount2

__all__ = ["NOW", "Calls"]


class Calls(Protocol):
    """Each raises OSError with the path, or nothing where it only writes down."""

    def mount(self, source: str, target: str, fstype: str = "", flags: int = 0, data: str = "") -> None: ...
    def umount2(self, target: str, flags: int = 0) -> None: ...
    def pivot_root(self, new_root: str, put_old: str) -> None: ...
    def mkdir(self, path: str, mode: int) -> None: ...
    def chown(self, path: str, uid: int, gid: int) -> None: ...
    def chmod(self, path: str, mode: int) -> None: ...
    def chdir(self, path: str) -> None: ...

    def bind(self, source: str, target: str, *, recursive: bool = False, readonly: bool = False) -> None:
        """See `mounts.bind`."""
        ...

    def make_point(self, source: str, target: str) -> None:
        """An empty directory or file for `source` to be bound on, with the directories above it."""
        ...


class _Now:
    mount = staticmethod(mount)
    umount2 = staticmethod(umount2)
    pivot_root = staticmethod(pivot_root)
    bind = staticmethod(bind)
    mkdir = staticmethod(os.mkdir)
    chown = staticmethod(os.chown)
    chmod = staticmethod(os.chmod)
    chdir = staticmethod(os.chdir)

    def make_point(self, source: str, target: str) -> None:
        if os.path.isdir(source):
            os.makedirs(target, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


NOW: Final[Calls] = _Now()
"""Does it."""
