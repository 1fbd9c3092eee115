"""Whether a sandbox that was made ahead still fits: its paths on the host may be other files by now."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_isolate.model.spec import Spec

__all__ = ["Files", "files_of"]

Files = tuple[tuple[int, int] | None, ...]


def files_of(spec: Spec) -> Files:
    """Device and inode of each path that `spec` names, None where there is no file."""
    return tuple(_file(path) for path in (*spec.writable, *spec.hide))


def _file(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
