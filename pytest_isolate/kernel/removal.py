"""Removing a tree, whatever modes its directories have, without following a link and without a path that could be too long.

By hand: shutil would be the builder's largest import.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import Final

__all__ = ["remove_path", "remove_tree"]

_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_IS_DIRECTORY: Final = (errno.EISDIR, errno.EPERM)
"""What unlink(2) says of a directory: Linux the first, POSIX the second, which has other reasons too."""


def remove_tree(name: str | bytes, directory: int) -> None:
    """`name` in the directory with the descriptor `directory`, and all that is in it; nothing where it isn't there. Raises OSError."""
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in _IS_DIRECTORY or not stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            raise
    else:
        return
    fd = os.open(name, _OPEN, dir_fd=directory)
    try:
        with suppress(OSError):  # what comes of it shows below
            os.fchmod(fd, 0o700)
        for entry in os.listdir(fd):
            remove_tree(os.fsencode(entry), fd)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=directory)


def remove_path(path: str) -> None:
    """As `remove_tree`, by a path. Raises OSError."""
    above, name = os.path.split(path)
    fd = os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        remove_tree(name, fd)
    finally:
        os.close(fd)
