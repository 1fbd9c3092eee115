"""The builder's answers about what a sandbox wrote. Lists may be long, so they go in a memory file instead of a packet."""

from __future__ import annotations

import json
import os
from typing import Any

from pytest_isolate.model.changes import Changes
from pytest_isolate.rootfs.changes import changes, points_of, trees_of
from pytest_isolate.sandbox.construct import Built

__all__ = ["changes_of", "directories_of", "in_memory"]


def changes_of(built: Built, workspace: str) -> Changes:
    """What it wrote so far; the caller is in the mount namespace that `workspace` was prepared in. Raises OSError."""
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


def in_memory(found: Changes) -> int:
    """A descriptor of a file with `found` as JSON, to be read from its beginning. Raises OSError."""
    fd = os.memfd_create("pytest-isolate-changes")
    try:
        with open(fd, "w", encoding="ascii", closefd=False) as file:
            json.dump(found.to_json(), file)
        os.lseek(fd, 0, os.SEEK_SET)
    except BaseException:
        os.close(fd)
        raise
    return fd
