"""Removing a tree, whatever modes its directories have, without following a link and without a path that could be too long."""

from __future__ import annotations

import os

__all__ = ["remove"]

_OPEN: int = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove(name: bytes, parent: int) -> None:
    """`name` in the directory `parent`, with all that is in it; nothing where it isn't there. Raises OSError."""
    try:
        os.unlink(name, dir_fd=parent)
        return
    except FileNotFoundError:
        return
    except IsADirectoryError:
        pass
    except PermissionError:  # what unlink(2) says of a directory on some file systems
        pass
    fd = os.open(name, _OPEN, dir_fd=parent)
    try:
        for entry in os.listdir(fd):
            remove(os.fsencode(entry), fd)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=parent)
