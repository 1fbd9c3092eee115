"""A sandbox's cgroup files, opened before they are out of reach.

A process that is born inside a sandbox must join its cgroups itself, not be made by one that has joined: the page tables of
its copy of pytest's memory would be charged to the test. But from inside no path leads to the files. So whoever makes
it opens them. A v1 `tasks` file asks for the permissions of the one who opened it (cgroup1_procs_write, `of->file->f_cred`).
"""

from __future__ import annotations

import os
from typing import Self

from pytest_isolate.kernel.cgroup_types import Group
from pytest_isolate.model.errors import SetupError

__all__ = ["OpenGroup"]


class OpenGroup:
    """The `tasks` files of `group`, as a context manager that closes them.

    Raises:
        OSError: naming the file.
    """

    def __init__(self, group: Group | None) -> None:
        self._files: list[tuple[int, str]] = []
        try:
            for directory in group.directories() if group is not None else ():
                path = f"{directory}/tasks"
                self._files.append((os.open(path, os.O_WRONLY | os.O_CLOEXEC), path))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def join(self) -> None:
        """Move the calling thread, which must be its process's only one, into the group; see `cgroup.join`. Raises SetupError."""
        for fd, path in self._files:
            try:
                os.write(fd, b"0")
            except OSError as error:
                hint = "a real-time process can't join a cgroup without real-time budget: run pytest under chrt --other 0"
                raise SetupError.from_os_error("join cgroup", error, path, hint) from None

    def close(self) -> None:
        """Idempotent."""
        while self._files:
            os.close(self._files.pop()[0])
