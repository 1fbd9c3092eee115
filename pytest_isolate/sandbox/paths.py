"""Whether a sandbox that was made ahead still fits: its paths on the host may be other files by now."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_isolate.model.spec import Spec

__all__ = ["Files", "files_of"]

Files = tuple[tuple[int, ...] | None, ...]


def files_of(spec: Spec) -> Files:
    """Device and inode of each path that `spec` names, None where there is no file; of files of ``inputs=``, which may be copied, the version too."""
    kept = spec.project.kept if spec.project and spec.inputs else ()
    return (*(_file(path) for path in (*spec.writable, *spec.hide)), *(_version(path) for path in (*spec.inputs, *kept)))


def _file(path: str) -> tuple[int, ...] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _version(path: str) -> tuple[int, ...] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    version = () if stat.S_ISDIR(status.st_mode) else (status.st_size, status.st_mtime_ns, status.st_mode)
    return status.st_dev, status.st_ino, *version
