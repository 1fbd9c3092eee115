"""Writable layers on a disk: a directory per run beside the layers of the store, a directory in it per sandbox.

Where memory is what a test is short of. A tmpfs vanishes with its sandbox; these directories are removed once nothing runs in it any
more, and those of a run that was killed by the next one.
"""

from __future__ import annotations

import os
from contextlib import suppress

from pytest_isolate.kernel.cgroup_runs import is_stale
from pytest_isolate.kernel.removal import remove_path
from pytest_isolate.model.errors import SetupError

__all__ = ["Scratch", "remove"]


class Scratch:
    """Those of one run. Args: its name."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._bases: dict[str, None] = {}

    def make(self, base: str, number: int) -> str:
        """An empty directory for sandbox `number`, below `base`; no path without a `base`. Raises SetupError."""
        if not (path := self.path(base, number)):
            return ""
        try:
            if os.path.isdir(path):
                remove(path)
            os.makedirs(path, 0o700)
        except OSError as error:
            raise SetupError.from_os_error("mkdir", error, path, "name another place: --isolate-store=PATH") from None
        if base not in self._bases:
            self._bases[base] = None
            _sweep(base)
        return path

    def path(self, base: str, number: int) -> str:
        """What `make` gave."""
        return os.path.join(base, self._run, str(number)) if base else ""

    def end(self) -> None:
        """Remove what is left."""
        for base in self._bases:
            remove(os.path.join(base, self._run))
            with suppress(OSError):
                os.rmdir(base)


def remove(path: str) -> None:
    """The tree at `path`; what can't be removed is swept by the next run."""
    with suppress(OSError):
        remove_path(path)


def _sweep(base: str) -> None:
    with suppress(OSError):
        for name in os.listdir(base):
            if is_stale(name):
                remove(os.path.join(base, name))
