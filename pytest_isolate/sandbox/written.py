"""The builder's answers about what a sandbox wrote. Lists may be long, so they go in a memory file instead of a packet."""

from __future__ import annotations

import json
import os

from pytest_isolate.model.changes import Changes
from pytest_isolate.rootfs.changes import changes, points_of, trees_of
from pytest_isolate.sandbox.construct import Built

__all__ = ["changes_of", "in_memory"]


def changes_of(built: Built, workspace: str) -> Changes:
    """What it wrote so far; the caller is in the mount namespace that `workspace` was prepared in. Raises OSError."""
    return changes(built.upper, trees_of(built.plan, workspace), points_of(built.plan))


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
