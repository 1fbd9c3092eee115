"""The builder's answers about what a sandbox wrote: the list of it, and a copy. Lists may be long, so they go in a memory file instead of a packet."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pytest_isolate.model.changes import Changes
from pytest_isolate.model.errors import IsolateError
from pytest_isolate.rootfs.changes import changes, points_of, trees_of
from pytest_isolate.rootfs.kept import export
from pytest_isolate.sandbox.construct import Built

__all__ = ["answer_changes", "answer_keep", "directories_of"]


def answer_changes(built: Built, workspace: str) -> int:
    """What it wrote so far; the caller is in the mount namespace that `workspace` was prepared in.

    Returns:
        A descriptor of a file with `Changes` as JSON, to be read from its beginning.

    Raises:
        IsolateError
    """
    with _told("what the sandbox wrote can't be read"):
        return _in_memory(_changes(built, workspace))


def answer_keep(built: Built, workspace: str, message: dict[str, Any], directory: int, *, rootless: bool) -> int:
    """Keep what it wrote: see `kept.export`. Returns and raises as `answer_changes`."""
    with _told(f"what the sandbox wrote can't be kept in {message['in']}"):
        found = _changes(built, workspace)
        about = {**message["about"], **found.to_json()}
        export(built.upper, trees_of(built.plan, workspace), directory, message["as"], about, rootless=rootless)
        return _in_memory(found)


def _changes(built: Built, workspace: str) -> Changes:
    return changes(built.upper, trees_of(built.plan, workspace), points_of(built.plan))


def directories_of(built: Built) -> tuple[dict[str, Any], tuple[int, ...]]:
    """``trees``: the path of each of its overlays, and a descriptor (O_PATH) for each of what it wrote there. Raises OSError."""
    trees = sorted(trees_of(built.plan, ""), key=lambda tree: tree.path)
    opened: list[int] = []
    try:
        for tree in trees:
            opened.append(os.open(str(tree.number), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=built.upper))
    except OSError:
        for fd in opened:
            os.close(fd)
        raise
    return {"trees": [tree.path for tree in trees]}, tuple(opened)


def _in_memory(found: Changes) -> int:
    fd = os.memfd_create("pytest-isolate-changes")
    try:
        with open(fd, "w", encoding="ascii", closefd=False) as file:
            json.dump(found.to_json(), file)
        os.lseek(fd, 0, os.SEEK_SET)
    except BaseException:
        os.close(fd)
        raise
    return fd


_HINTS = {
    errno.ENOSPC: "make room there, or name another directory: --isolate-keep-to=DIR",
    errno.EDQUOT: "make room there, or name another directory: --isolate-keep-to=DIR",
    errno.EPERM: "its file system takes no whiteouts, owners or attributes: name a directory on another one (ext4, xfs, tmpfs)",
    errno.ENOTSUP: "its file system takes no attributes: name a directory on another one (ext4, xfs)",
}


@contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        number = error.errno or 0
        raise IsolateError(
            f"{what}: {os.fsdecode(error.filename or '')}: {errno.errorcode.get(number, number)} ({error.strerror})",
            _HINTS.get(number, ""),
        ) from None
