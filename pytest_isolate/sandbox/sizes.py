"""How much lies in a writable layer: what its own file system says, or, of a directory among others, a walk."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

from pytest_isolate.kernel.overlay_marks import is_whiteout

__all__ = ["MOST", "size_of", "used_bytes"]

MOST: Final = 100_000
"""Entries that are looked at: 0.2 s. What has more takes too long to be told of each test."""
_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def used_bytes(there: os.statvfs_result) -> int:
    return (there.f_blocks - there.f_bfree) * there.f_frsize


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
