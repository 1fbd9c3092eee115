"""Steps whose targets lie in a root that isn't the host's: links on the way to them are the image's, and lead somewhere in that root."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from dataclasses import dataclass, replace

from pytest_isolate.kernel.calls import NOW, Calls
from pytest_isolate.kernel.mounts import open_in_root
from pytest_isolate.rootfs.plan import Bind, Operation

__all__ = ["InRoot"]


@dataclass(frozen=True, slots=True)
class InRoot(Operation):
    """`operation`, its target looked up as inside: in a root that isn't the host's, links on the way lead somewhere in that root.

    For steps outside only, where /proc is the host's.
    """

    operation: Operation

    @property
    def step(self) -> str:  # type: ignore[override]
        return self.operation.step

    @property
    def target(self) -> str:  # type: ignore[override]
        return self.operation.target

    def describe(self) -> str:
        return self.operation.describe()

    def execute(self, root: str, calls: Calls = NOW) -> None:
        try:
            fd = open_in_root(root, self.target)
        except FileNotFoundError:  # a link of the image leads to where the lowest layer has no mount points
            fd = self._make_point(root)
        try:
            replace(self.operation, target=f"/proc/self/fd/{fd}").execute("", calls)  # type: ignore[type-var]
        finally:
            os.close(fd)

    def _make_point(self, root: str) -> int:
        """An empty directory, or file for a bound file, in the writable layer; an O_PATH fd of it."""
        names = self.target.strip("/").split("/")
        is_file = isinstance(self.operation, Bind) and not os.path.isdir(self.operation.source)
        path = ""
        for place, name in enumerate(names, 1):
            parent = open_in_root(root, path or "/")
            try:
                if is_file and place == len(names):
                    os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644, dir_fd=parent))
                else:
                    with suppress(FileExistsError):
                        os.mkdir(name, 0o755, dir_fd=parent)
            finally:
                os.close(parent)
            path += f"/{name}"
        return open_in_root(root, path)

    def hint(self, number: int) -> str:
        if number in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return f"a layer of rootfs= has something else in the way of {self.target}: a file, a dangling link or a deleted directory"
        return self.operation.hint(number)
