"""A sandbox's cgroup files, opened before they are out of reach.

A process that is born inside a sandbox must join its cgroups itself, not be made by one that has joined: the page tables of
its copy of pytest's memory would be charged to the test. But from inside no path leads to the files. So whoever makes
it opens them. Permissions and cgroup namespace are those of the one who opened (cgroup1_procs_write and cgroup_procs_write,
`of->file->f_cred` and `ctx->ns`). In a v2 group a process can also be born (`clone.fork_into`), by the directory's descriptor.
"""

from __future__ import annotations

import os
from typing import Self

from pytest_isolate.kernel.cgroup_types import Group
from pytest_isolate.model.errors import SetupError

__all__ = ["OpenGroup"]


class OpenGroup:
    """The files of `group` that are written to join it, as a context manager that closes them.

    Attributes:
        directory: fd of its v2 directory; None where it has none.

    Raises:
        OSError: naming the file.
    """

    def __init__(self, group: Group | None) -> None:
        self._files: list[tuple[int, str]] = []
        self._unified = ""
        self.directory: int | None = None
        try:
            for directory in group.v1_directories() if group is not None else ():
                self._open(f"{directory}/tasks")
            if group is not None and group.v2:
                self._unified = f"{group.v2}/cgroup.procs"
                self.directory = os.open(group.v2, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                self._open(self._unified)
        except BaseException:
            self.close()
            raise

    def _open(self, path: str) -> None:
        self._files.append((os.open(path, os.O_WRONLY | os.O_CLOEXEC), path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def join(self, *, born: bool = False) -> None:
        """Move the calling thread, which must be its process's only one, into the group; see `cgroup.join`.

        Args:
            born: it was born in the v2 directory.

        Raises:
            SetupError
        """
        for fd, path in self._files:
            if born and path == self._unified:
                continue
            try:
                os.write(fd, b"0")
            except OSError as error:
                hint = "a real-time process can't join a cgroup without real-time budget: run pytest under chrt --other 0"
                raise SetupError.from_os_error("join cgroup", error, path, hint) from None

    def close(self) -> None:
        """Idempotent."""
        while self._files:
            os.close(self._files.pop()[0])
        if self.directory is not None:
            os.close(self.directory)
            self.directory = None
