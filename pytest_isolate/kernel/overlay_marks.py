"""How overlayfs writes down, in an upper directory, what can't be a file there: what is gone, hidden or was renamed.

Source: the kernel's Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories" and "renaming
directories"; fuse-overlayfs(1) for its own spellings. Only what these layers can have is read: no metacopy, no
``overlay.whiteout`` attributes, which the kernel reads but never writes.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import Final

__all__ = ["DOTTED", "OPAQUE_FILE", "PRIVATE", "Marks", "is_whiteout", "read_attributes", "read_marks"]

PRIVATE: Final = ("trusted.overlay.", "user.overlay.", "user.fuseoverlayfs.")
"""Beginnings of the attributes that are overlayfs's own: root's, those with ``userxattr``, those of fuse-overlayfs without privileges."""

DOTTED: Final = ".wh."
"""Before a name: gone. fuse-overlayfs writes it where it may not make device nodes."""

OPAQUE_FILE: Final = ".wh..wh..opq"

_OPAQUE: Final = tuple(f"{prefix}opaque" for prefix in PRIVATE)
_REDIRECT: Final = tuple(f"{prefix}redirect" for prefix in PRIVATE[:2])


@dataclass(frozen=True, slots=True)
class Marks:
    """Of one directory.

    Attributes:
        opaque: nothing of the layers below shows through.
        redirect: where it is in the layers below: a name in the same directory, or a path from the root of the overlay. Empty: at its own name.
    """

    opaque: bool = False
    redirect: str = ""


def is_whiteout(status: os.stat_result) -> bool:
    """Whether it says that the name is gone: a character device 0/0."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def read_marks(directory: int | str) -> Marks:
    """Of a directory, by an fd or a path whose last part is no symbolic link. Raises OSError."""
    found = read_attributes(directory, (*_OPAQUE, *_REDIRECT))
    # "x" says that attributes mark whiteouts in it, not that it is opaque.
    opaque = any(found.get(name) == b"y" for name in _OPAQUE)
    return Marks(opaque, os.fsdecode(next((found[name] for name in _REDIRECT if name in found), b"")))


def read_attributes(target: int | str, prefixes: tuple[str, ...]) -> dict[str, bytes]:
    """Extended attributes whose names begin with one of `prefixes`. None on a file system without them. Raises OSError."""
    try:
        return {name: os.getxattr(target, name) for name in os.listxattr(target) if name.startswith(prefixes)}
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENODATA):  # or one was taken away meanwhile
            return {}
        raise
