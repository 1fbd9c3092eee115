"""Layers below, as overlayfs merges them: what a path of the layer that is being made stands on.

Read-only. A layer's archive may leave out directories that are there below; then the layer gets a directory with the lower one's
owner and mode, or what stands below it would be covered by one that looks different.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from contextlib import suppress

from pytest_isolate.kernel.overlay_marks import is_whiteout

__all__ = ["Lower"]


class Lower:
    """
    Args:
        directories: bottom to top.
        attribute: what overlayfs's extended attributes begin with.
    """

    def __init__(self, directories: Sequence[str], attribute: str) -> None:
        self._opaque = f"{attribute}opaque"
        self._merged: dict[bytes, list[bytes]] = {b"": [os.fsencode(path) for path in reversed(directories)]}

    def find(self, path: bytes) -> tuple[bytes, os.stat_result] | None:
        """Where the file or directory is that the layers below show at `path`, whose parents are directories there; None: nothing."""
        above, _, name = path.rpartition(b"/")
        if not path:
            return next(((place, os.lstat(place)) for place in self._merged[b""]), None)
        for directory in self._directories(above):
            place = directory + b"/" + name
            try:
                status = os.lstat(place)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
                    continue
                raise
            return None if is_whiteout(status) else (place, status)
        return None

    def _directories(self, path: bytes) -> list[bytes]:
        """Those that overlayfs merges at `path`, topmost first."""
        if path in self._merged:
            return self._merged[path]
        above, _, name = path.rpartition(b"/")
        found: list[bytes] = []
        for directory in self._directories(above):
            place = directory + b"/" + name
            try:
                status = os.lstat(place)
            except OSError:
                continue
            if not stat.S_ISDIR(status.st_mode):
                break
            found.append(place)
            with suppress(OSError):
                if os.getxattr(place, self._opaque, follow_symlinks=False) == b"y":
                    break
        self._merged[path] = found
        return found
