"""Layers in use: a shared lock on each one's file ``used``, for as long as somebody may mount it; its time says when that was last.

The lock goes with the process, by SIGKILL too (flock(2)), so that nothing is in use for ever. Who removes a layer takes it alone.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress

__all__ = ["Held", "take_alone"]


class Held:
    """The layers that one user of the store holds."""

    def __init__(self) -> None:
        self._fds: dict[str, int] = {}

    def take(self, layer: str) -> bool:
        """Hold the layer at the path `layer` until `release`; False: there is no such layer."""
        if layer in self._fds:
            return True
        while True:
            try:
                fd = os.open(f"{layer}/used", os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return False
            try:
                fcntl.flock(fd, fcntl.LOCK_SH)
                with suppress(FileNotFoundError):
                    # It may have been removed, and made anew, while we waited.
                    if os.path.samestat(os.fstat(fd), os.stat(f"{layer}/used")):
                        os.utime(fd)
                        self._fds[layer] = fd
                        return True
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def drop(self, layer: str) -> None:
        """Hold one no more."""
        if (fd := self._fds.pop(layer, None)) is not None:
            os.close(fd)

    def release(self) -> None:
        while self._fds:
            os.close(self._fds.popitem()[1])


def take_alone(layer: str) -> int | None:
    """An fd that holds the layer alone; None: it is in use, or gone."""
    try:
        fd = os.open(f"{layer}/used", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd
