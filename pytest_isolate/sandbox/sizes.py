"""How much lies in a writable layer: what its own file system says, or, of a directory among others, a walk."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from pytest_isolate.kernel.overlay_marks import is_whiteout

if TYPE_CHECKING:
    from pytest_isolate.model.spec import Spec

__all__ = ["MOST", "is_full", "size_of", "used_bytes"]

MOST: Final = 100_000
"""Entries that are looked at: 0.2 s. What has more takes too long to be told of each test."""
_PIECE: Final = 1 << 16
_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def used_bytes(there: os.statvfs_result | None, begin: int = 0) -> int | None:
    """What is in use beyond what was at the `begin`; None: not known."""
    return max(0, (there.f_blocks - there.f_bfree) * there.f_frsize - begin) if there is not None else None


def is_full(there: os.statvfs_result | None, spec: Spec) -> bool:
    """Whether nothing more can be written to the writable layer of `spec`; what isn't known isn't full."""
    # ext4 refuses a piece of a write that doesn't fit whole.
    too_little = min(_PIECE, spec.disk // 4) if spec.upper == "disk" and spec.disk is not None else 0
    return there is not None and there.f_bavail * there.f_frsize <= too_little


def size_of(upper: int, directories: list[str], most: int = MOST) -> int | None:
    """Bytes that the files in `directories` take on the disk, hard links counted once; None: there are more than `most`.

    Args:
        upper: descriptor of what they are in, O_PATH will do.
    """
    walk = _Walk(most)
    for name in directories:
        walk.enter(name, upper)
    return walk.size if walk.left >= 0 else None


class _Walk:
    def __init__(self, most: int) -> None:
        self.size, self.left = 0, most
        self._seen: set[int] = set()

    def enter(self, name: str, above: int) -> None:
        with suppress(OSError):  # it may go while we look
            fd = os.open(name, _OPEN, dir_fd=above)
            try:
                self._directory(fd)
            finally:
                os.close(fd)

    def _directory(self, fd: int) -> None:
        with os.scandir(fd) as entries:
            for entry in entries:
                self.left -= 1
                if self.left < 0:
                    return
                if entry.is_dir(follow_symlinks=False):
                    self.enter(entry.name, fd)
                    continue
                with suppress(FileNotFoundError):
                    self._count(entry.stat(follow_symlinks=False))

    def _count(self, status: os.stat_result) -> None:
        if status.st_nlink > 1:  # an upper is on one file system
            if status.st_ino in self._seen:
                return
            self._seen.add(status.st_ino)
        if not is_whiteout(status):
            self.size += status.st_blocks * 512
