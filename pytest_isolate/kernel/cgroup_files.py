"""Reading and writing the files of cgroup directories, of both versions.

A few short files, each opened, read once and closed: some 10 microseconds a file. What this kernel doesn't have,
or a group that is gone, is None where figures are read, and an OSError where something is set.
"""

from __future__ import annotations

import os

__all__ = ["entry", "number", "read", "refusal", "text", "write"]


def write(path: str, value: str) -> None:
    """One write(2) of `value` to an existing file. Raises OSError naming it."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


def read(path: str) -> str:
    """The text of a file. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(fd, 65536)
        while len(data) % 4096 == 0 and (more := os.read(fd, 65536)):  # cgroup.procs comes by the page
            data += more
        return data.decode()
    finally:
        os.close(fd)


def text(path: str | None) -> str | None:
    """The text of a file; None where there is none."""
    if path is None:
        return None
    try:
        return read(path)
    except OSError:  # ENODEV too: removed between open and read
        return None


def number(path: str | None) -> int | None:
    """The one number in a file; None where there is none (``max``)."""
    found = text(path)
    return int(found) if found is not None and found.strip().isdigit() else None


def entry(path: str | None, name: str) -> int | None:
    """The number behind `name` in a file of `NAME NUMBER` lines."""
    for line in (text(path) or "").splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return None


def refusal(directory: str) -> tuple[str, str] | None:
    """Why no directory can be made in `directory`, and the remedy (empty: have one handed over); None if it can."""
    try:
        read_only = bool(os.statvfs(directory).f_flag & os.ST_RDONLY)
    except OSError as error:
        return f"{directory}: {error.strerror}", "run pytest from a cgroup that its mounts show and that still exists"
    if read_only:
        return f"{directory} is mounted read-only", "in a container, make it writable: docker run --privileged, or a volume"
    if not os.access(directory, os.W_OK | os.X_OK):
        return f"{directory} can't be written by user {os.geteuid()}", ""
    return None
