"""Files that a run leaves: written whole or not at all, and tried out before the first test."""

from __future__ import annotations

import os
import re
import stat
import tempfile
from contextlib import suppress
from typing import Final

__all__ = ["descriptor", "is_stream", "refusal", "write"]


_NAMED: Final = {"/dev/stdout": 1, "/dev/stderr": 2}
_NUMBERED: Final = re.compile(r"/(?:dev|proc/self)/fd/([0-9]{1,9})", re.ASCII)


def refusal(path: str) -> str:
    """Why no file can be written at `path`, whose missing directories would be made; empty if it can. Leaves nothing behind."""
    try:
        if (fd := descriptor(path)) is not None:
            os.fstat(fd)
            return ""
        path = os.path.realpath(path)
        if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
            return "" if is_stream(path) else "not a regular file"
        directory = os.path.dirname(path)
        while not os.path.isdir(directory) and not os.path.lexists(directory):
            directory = os.path.dirname(directory)
        fd, made = tempfile.mkstemp(dir=directory, prefix=".isolate-")
        os.close(fd)
        os.unlink(made)
    except OSError as error:
        return f"{error.strerror} ({error.filename})" if error.filename else str(error.strerror)
    except ValueError as error:  # a NUL in the path
        return str(error)
    return ""


def write(path: str, text: str) -> None:
    """`text` as UTF-8 at `path`, its directories made; what was there before stays until all of it is written. Symbolic links stay.

    Raises:
        OSError: with its `filename`.
    """
    data = text.encode("utf-8", "backslashreplace")
    fd = descriptor(path)
    if fd is not None or is_stream(path):
        # What /dev/stdout names may be a file, which has to be written to where the others who have it open are.
        with open(path if fd is None else os.dup(fd), "wb") as stream:
            stream.write(data)
        return
    path = os.path.realpath(path)
    directory = os.path.dirname(path)
    os.makedirs(directory, exist_ok=True)
    fd, half = tempfile.mkstemp(dir=directory, prefix=".isolate-")
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        os.chmod(half, _mode(path))
        os.replace(half, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(half)
        raise


def descriptor(path: str) -> int | None:
    """The one of this process that `path` names: ``/dev/stdout`` and the like."""
    if path in _NAMED:
        return _NAMED[path]
    return int(match[1]) if (match := _NUMBERED.fullmatch(path)) else None


def is_stream(path: str) -> bool:
    """Written to, never replaced; more than one output may go there."""
    if descriptor(path) is not None:
        return True
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)


def _mode(path: str) -> int:
    """Of the file that is replaced, else what open(2) would give a new one."""
    try:
        return stat.S_IMODE(os.stat(path).st_mode)
    except OSError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask
