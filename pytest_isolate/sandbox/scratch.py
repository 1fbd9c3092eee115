"""Writable layers on a disk: a directory per run beside the layers of the store, a directory in it per sandbox.

Where memory is what a test is short of. A tmpfs vanishes with its sandbox; these directories are removed once nothing runs in it any
more, and those of a run that was killed by the next one. With a cap it is a file system of that size instead (`capped`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from pytest_isolate.kernel.cgroup_runs import is_stale
from pytest_isolate.kernel.removal import remove_path
from pytest_isolate.model.errors import SetupError
from pytest_isolate.rootfs.plan import UPPER, Bind, Operation

if TYPE_CHECKING:
    from pytest_isolate.sandbox.capped import Templates

__all__ = ["Scratch", "remove"]

_ELSEWHERE = "name another place: --isolate-store=PATH"


class Scratch:
    """Those of one run.

    Args:
        run: its name.
        rootless: whether it has no rights to mount file systems of disks.
    """

    def __init__(self, run: str, *, rootless: bool = False) -> None:
        self._run, self._rootless = run, rootless
        self._bases: dict[str, None] = {}
        self._templates: Templates | None = None

    @contextmanager
    def made(self, base: str, number: int, size: int | None) -> Iterator[Operation | None]:
        """What puts sandbox `number`'s writes below `base`, to be done within the block; None without a `base`.

        Args:
            size: bytes that it may write; None: as many as there is room for.

        Raises:
            MissingCapability: ``loop-device``, ``mkfs.ext4``: there can be no cap.
            SetupError
        """
        if not base:
            yield None
        elif size is None:
            path = self.path(base, number)
            if os.path.isdir(path):
                remove(path)
            self._make(base, path)
            yield Bind(path, UPPER, recursive=False)
        else:
            from pytest_isolate.sandbox.capped import Templates, only_root

            if self._rootless:
                raise only_root()
            if self._templates is None:
                self._templates = Templates()
            directory = os.path.join(base, self._run)
            self._make(base, directory)
            with self._templates.copied(directory, size) as mounting:
                yield mounting

    def _make(self, base: str, path: str) -> None:
        try:
            os.makedirs(path, 0o700, exist_ok=True)
        except OSError as error:
            raise SetupError.from_os_error("mkdir", error, path, _ELSEWHERE) from None
        if base not in self._bases:
            self._bases[base] = None
            _sweep(base)

    def path(self, base: str, number: int, size: int | None = None) -> str:
        """The directory that `made` made; empty: there is none to be removed."""
        return os.path.join(base, self._run, str(number)) if base and size is None else ""

    def end(self) -> None:
        """Remove what is left."""
        if self._templates is not None:
            self._templates.close()
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
