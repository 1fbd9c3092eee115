"""Files that a run leaves: written whole or not at all, and tried out before the first test. Links are followed, not replaced."""

from __future__ import annotations

import os
import re
import stat
import tempfile
from contextlib import suppress
from typing import Final

__all__ = ["refusal", "write"]

_DESCRIPTORS: Final = re.compile(r"/proc/(self|thread-self|\d+)/(task/\d+/)?fd")


def refusal(path: str) -> str:
    """Why no file can be written at `path`, whose missing directories would be made; empty if it can. Leaves nothing behind."""
    try:
        if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
            return "" if _is_stream(path) else "not a regular file"
        if _is_descriptor(path):
            return f"it is what a descriptor was opened for, {os.path.realpath(path)}, which others write to"
        directory = os.path.dirname(os.path.realpath(path))
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
    """`text` as UTF-8 at `path`, its directories made; what was there before stays until all of it is written.

    Raises:
        OSError: with its `filename`.
    """
    data = text.encode("utf-8", "backslashreplace")
    if _is_stream(path):
        with open(path, "wb") as stream:
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


def _is_stream(path: str) -> bool:
    """Of ``/dev/stdout`` and the like: written to, never replaced."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)


def _is_descriptor(path: str) -> bool:
    """Whether it leads to a descriptor's file, as ``/dev/stdout`` does: a link that is followed, not read, and mustn't be replaced."""
    for _ in range(40):
        directory, name = os.path.split(path)
        if _DESCRIPTORS.fullmatch(directory := os.path.realpath(directory)):
            return True
        if not os.path.islink(path := os.path.join(directory, name)):
            return False
        path = os.path.join(directory, os.readlink(path))
    return False


def _mode(path: str) -> int:
    """Of the file that is replaced, else what open(2) would give a new one."""
    try:
        return stat.S_IMODE(os.stat(path).st_mode)
    except OSError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask
