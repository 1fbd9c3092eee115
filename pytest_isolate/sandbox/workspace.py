"""The builder's own directory: a name on the host; `HostRoot.prepare` puts a tmpfs behind it, in the builder's mounts.

On the host it is an empty directory in the temporary directory. It carries the run's name, so that a later
run can tell that its owner is dead.
"""

from __future__ import annotations

import os
from contextlib import suppress

from pytest_isolate.kernel.cgroup_runs import is_stale
from pytest_isolate.kernel.mounts import MNT_DETACH, umount2
from pytest_isolate.model.errors import SetupError

__all__ = ["Workspace", "remove_workspace", "sweep_workspaces"]


class Workspace:
    """Args: the temporary directory and the run's name. Raises SetupError."""

    def __init__(self, tmp: str, run: str) -> None:
        self.path = os.path.join(tmp, run)
        try:
            os.mkdir(self.path, 0o700)
        except OSError as error:
            hint = "point TMPDIR to a directory that you can write"
            raise SetupError.from_os_error("mkdir", error, self.path, hint) from None

    def remove(self) -> None:
        """Unmount and remove it; what can't be removed is swept by the next run."""
        with suppress(OSError):
            umount2(self.path, MNT_DETACH)
        remove_workspace(self.path)


def remove_workspace(path: str) -> None:
    """Remove the directory on the host, after the builder ended too."""
    with suppress(OSError):
        os.rmdir(path)


def sweep_workspaces(tmp: str) -> None:
    """Remove those of dead runs from `tmp`."""
    with suppress(OSError):
        for name in os.listdir(tmp):
            if is_stale(name):
                remove_workspace(os.path.join(tmp, name))
