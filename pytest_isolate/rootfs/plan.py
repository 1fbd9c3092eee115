"""Mount operations: frozen, printable (`describe`), applied one after the other (`apply`).

An operation knows paths in two worlds. Its `target` is a path inside the sandbox, below the sandbox's root
while that is being built. Its `source` is a path of the builder, absolute, or relative to the workspace, the
directory that `apply` expects to be the working directory: relative names keep overlay's options short and
free of the workspace's own special characters. What is mounted where is decided in `host`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Self

from pytest_isolate.kernel.calls import NOW, Calls
from pytest_isolate.kernel.mounts import (
    MNT_DETACH,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    escape_overlay,
)
from pytest_isolate.model.errors import SetupError
from pytest_isolate.model.units import format_size

__all__ = [
    "HINTS",
    "Bind",
    "Directory",
    "EnterRoot",
    "FileSystem",
    "GroupDirectory",
    "Hide",
    "Operation",
    "Overlay",
    "PivotRoot",
    "Plan",
    "ReadOnly",
    "Upper",
    "apply",
    "overlay_data",
]

ROOT: Final = "root"
UPPER: Final = "upper"
WORK: Final = "work"
FIGURES: Final = "figures"
EMPTY: Final = "empty"
NOTHING: Final = "nothing"
REFUSED: Final = "refused"
GROUP: Final = "group"
"""Names in the workspace: where the sandbox's root is built; the tmpfs of its writes, and the work directories in
it, and an empty directory in it to ask statvfs(2) of; the empty directory and the empty file that hide; the file that everyone may write, so that connecting to it
is refused for what it is (ECONNREFUSED) and not for its mode (EACCES); where the sandbox's own cgroup v2 directory is bound.
"""

_KEEP_FLAGS: Final = MS_NOSUID | MS_NODEV | MS_NOEXEC

HINTS: Final = {
    errno.EPERM: "the builder may not mount here: in a container, allow CAP_SYS_ADMIN or user namespaces "
    "(docker run --privileged, or --security-opt seccomp=unconfined --security-opt apparmor=unconfined)",
    errno.ENODEV: "this kernel has no such file system: load its module (modprobe overlay)",
    errno.ENOSPC: "a limit on mounts is reached: raise /proc/sys/fs/mount-max or "
    "/proc/sys/user/max_mnt_namespaces, or give the writable layer more room (disk=)",
    errno.ENOMEM: "the machine is out of memory for the writable layer: ask for a smaller disk=",
    errno.E2BIG: "shorten the paths: overlay's options must fit one page",
}


def overlay_data(lowers: Sequence[str], number: int, options: str) -> str:
    """Overlay's options for the directories `lowers`, top to bottom, below the writable layer's directory `number`."""
    below = ":".join(map(escape_overlay, lowers))
    return f"lowerdir={below},upperdir={UPPER}/{number},workdir={UPPER}/{WORK}{number},{options}"


class Operation:
    """One step; subclasses are frozen dataclasses and say only what to call, never how errors are told."""

    __slots__ = ()
    step: ClassVar[str] = "mount"
    target: str

    def describe(self) -> str:
        """One line for people (``--isolate-plan``)."""
        raise NotImplementedError

    def execute(self, root: str, calls: Calls = NOW) -> None:
        """Do it with the sandbox's root at `root`. Raises OSError, and what `calls` raises."""
        raise NotImplementedError

    def hint(self, number: int) -> str:
        """The remedy for errno `number`."""
        return HINTS.get(number, "")

    def apply(self, root: str) -> None:
        """`execute`, failures told as SetupError with step, path inside the sandbox, errno and remedy."""
        try:
            self.execute(root)
        except OSError as error:
            raise self.refused(error) from error

    def refused(self, error: OSError) -> SetupError:
        """What the kernel's `error` in this step means for people."""
        number = error.errno or 0
        return SetupError(self.step, self.target, number, self.hint(number), str(error))


def apply(operations: Iterable[Operation], root: str) -> None:
    """Apply one after the other, stopping at the first failure. Raises SetupError."""
    for operation in operations:
        operation.apply(root)


@dataclass(frozen=True, slots=True)
class Plan:
    """All operations of one sandbox.

    Attributes:
        outside: for the builder, in a mount namespace of this sandbox that still belongs to the builder's
            user namespace, so that what is mounted here is locked for everything inside.
        inside: for the sandbox's init in its own namespaces; the last one leaves the host's tree for good.
        notes: what differs from what one would expect, a sentence each.
    """

    outside: tuple[Operation, ...]
    inside: tuple[Operation, ...]
    notes: tuple[str, ...] = ()

    def describe(self) -> list[str]:
        steps = [operation.describe() for operation in (*self.outside, *self.inside)]
        return [*steps, *(f"note: {note}" for note in self.notes)]


@dataclass(frozen=True, slots=True)
class Directory:
    """Mode and owner that a directory of the upper must share with the directory it covers."""

    mode: int
    uid: int | None = None
    gid: int | None = None

    @classmethod
    def like(cls, path: str, *, owned: bool) -> Self:
        """As the directory `path` of the caller's tree is; `owned`: its owner too, else the caller's. Raises OSError."""
        status = os.stat(path)
        owner = (status.st_uid, status.st_gid) if owned else ()
        return cls(stat.S_IMODE(status.st_mode), *owner)

    def make(self, path: str, calls: Calls = NOW) -> None:
        calls.mkdir(path, 0o700)
        if self.uid is not None and self.gid is not None:
            calls.chown(path, self.uid, self.gid)
        calls.chmod(path, self.mode)


@dataclass(frozen=True, slots=True)
class Upper(Operation):
    """What takes every write of this sandbox, with an upper and a work directory per overlay: a tmpfs, or the directory that
    `apply_outside` is given for it.
    """

    step: ClassVar[str] = "mount tmpfs"
    size: int | None
    directories: tuple[Directory, ...]
    on_disk: bool = False
    target: str = "(writable layer)"

    def describe(self) -> str:
        if self.on_disk:
            return "directory of the layer store for writes"
        return f"tmpfs for writes, {format_size(self.size) if self.size else 'half of the memory'}"

    def execute(self, root: str, calls: Calls = NOW) -> None:
        del root  # beside it
        if not self.on_disk:
            data = f"mode=700,size={self.size}" if self.size else "mode=700"
            calls.mount("tmpfs", UPPER, "tmpfs", MS_NOSUID | MS_NODEV, data)
        calls.mkdir(f"{UPPER}/{FIGURES}", 0o500)
        for number, directory in enumerate(self.directories):
            directory.make(f"{UPPER}/{number}", calls)
            calls.mkdir(f"{UPPER}/{WORK}{number}", 0o700)


@dataclass(frozen=True, slots=True)
class Overlay(Operation):
    """The directories of `lowers`, top to bottom, with the writable layer's directory `number` over them; `describe` says what is `below`.

    Never with devices: the sandbox has a /dev of its own, and a node of a disk may lie anywhere on a host.
    """

    step: ClassVar[str] = "mount overlay"
    lowers: tuple[str, ...]
    target: str
    number: int
    options: str
    flags: int = 0
    below: str = "the host's"

    def describe(self) -> str:
        return f"overlay {self.target} ({self.below} below, writes are thrown away)"

    def execute(self, root: str, calls: Calls = NOW) -> None:
        data = overlay_data(self.lowers, self.number, self.options)
        calls.mount("overlay", root + self.target, "overlay", self.flags | MS_NODEV, data)

    def hint(self, number: int) -> str:
        if number == errno.EINVAL:
            return (
                f"the file system of {self.target} can't be an overlay's lower layer; if it is an overlay on an overlay itself "
                "(a container in a container), run pytest one level further out, or on a volume"
            )
        return HINTS.get(number, "")


@dataclass(frozen=True, slots=True)
class Bind(Operation):
    """`source` shows up at `target`; read-only where the source is (`describe` says what `readonly` knows).

    `make` is for a target in a file system that the plan itself mounted empty.
    """

    step: ClassVar[str] = "bind"
    source: str
    target: str
    recursive: bool = True
    readonly: bool = False
    make: bool = False

    def describe(self) -> str:
        return f"bind {self.target} ({'read-only' if self.readonly else 'read-write'})"

    def execute(self, root: str, calls: Calls = NOW) -> None:
        target = root + self.target
        if self.make:
            calls.make_point(self.source, target)
        # Where the source isn't read-only itself (a clone in the workspace), each copy has to be made so.
        if self.readonly and os.path.isabs(self.source):
            calls.bind(self.source, target, recursive=self.recursive, readonly=True)
        else:
            calls.mount(self.source, target, "", MS_BIND | MS_REC if self.recursive else MS_BIND)

    def hint(self, number: int) -> str:
        if number == errno.ENOENT:
            return f"make {self.target} on the host before the test asks for it"
        return HINTS.get(number, "")


@dataclass(frozen=True, slots=True)
class GroupDirectory(Operation):
    """The sandbox's own directory of the v2 tree, read-only, at GROUP in the workspace: the one thing in which sandboxes of a plan differ."""

    step: ClassVar[str] = "bind cgroup"
    source: str
    target: str = "/sys/fs/cgroup"

    def describe(self) -> str:
        return f"bind {self.source} ({self.target} of the sandbox, read-only)"

    def execute(self, root: str, calls: Calls = NOW) -> None:
        del root  # beside it
        calls.mount(self.source, GROUP, "", MS_BIND)
        calls.mount("", GROUP, "", MS_REMOUNT | MS_BIND | MS_RDONLY | _KEEP_FLAGS)


@dataclass(frozen=True, slots=True)
class FileSystem(Operation):
    """A file system of the sandbox's own: proc, sysfs, devpts, mqueue, cgroup, tmpfs."""

    fstype: str
    target: str
    flags: int = MS_NOSUID | MS_NODEV | MS_NOEXEC
    data: str = ""

    @property
    def step(self) -> str:  # type: ignore[override]
        return f"mount {self.fstype}"

    def describe(self) -> str:
        return f"{self.fstype} {self.target} (own{', read-only' if self.flags & MS_RDONLY else ''})"

    def execute(self, root: str, calls: Calls = NOW) -> None:
        calls.mount(self.fstype, root + self.target, self.fstype, self.flags, self.data)

    def hint(self, number: int) -> str:
        if number == errno.EPERM and self.fstype in ("proc", "sysfs"):
            return (
                f"the kernel refuses a fresh {self.fstype} while parts of the host's are covered: in a container, "
                "take the masks away (docker run --security-opt systempaths=unconfined)"
            )
        return HINTS.get(number, "")


@dataclass(frozen=True, slots=True)
class ReadOnly(Operation):
    """What is at `target` can be read, not written."""

    step: ClassVar[str] = "bind read-only"
    target: str

    def describe(self) -> str:
        return f"read-only {self.target}"

    def execute(self, root: str, calls: Calls = NOW) -> None:
        target = root + self.target
        calls.mount(target, target, "", MS_BIND)
        calls.mount("", target, "", MS_REMOUNT | MS_BIND | MS_RDONLY | _KEEP_FLAGS)


@dataclass(frozen=True, slots=True)
class Hide(Operation):
    """Something empty and read-only over `target`: EMPTY, NOTHING or REFUSED.

    `why` is for `describe`. `keep` are paths below it that stay: they get mount points.
    """

    step: ClassVar[str] = "hide"
    target: str
    cover: str
    why: str = "hidden"
    keep: tuple[str, ...] = ()

    def describe(self) -> str:
        return f"{self.why} {self.target}"

    def execute(self, root: str, calls: Calls = NOW) -> None:
        target = root + self.target
        if not self.keep:
            calls.mount(self.cover, target, "", MS_BIND)
            return
        calls.mount("tmpfs", target, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=64k")
        for path in self.keep:
            calls.make_point(path, root + path)
        calls.mount("", target, "", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)

    def hint(self, number: int) -> str:
        if number == errno.ENOENT:
            return f"{self.target} doesn't exist on the host: take it out of hide="
        return HINTS.get(number, "")


@dataclass(frozen=True, slots=True)
class EnterRoot(Operation):
    """The finished tree, mounted once more by the sandbox itself.

    What came from outside is locked, and pivot_root refuses a locked mount; a recursive bind of it is the
    sandbox's own while the mounts below it stay locked.
    """

    step: ClassVar[str] = "bind root"
    source: str = ROOT
    readonly: bool = False
    target: str = "/"

    def describe(self) -> str:
        return f"bind / ({'the host, read-only' if self.readonly else 'what was built outside'})"

    def execute(self, root: str, calls: Calls = NOW) -> None:
        calls.mount(self.source, root, "", MS_BIND | MS_REC)


@dataclass(frozen=True, slots=True)
class PivotRoot(Operation):
    """The tree becomes ``/``, the host's is gone: pivot_root(".", "."), umount2(".", MNT_DETACH)."""

    step: ClassVar[str] = "pivot_root"
    target: str = "/"

    def describe(self) -> str:
        return "pivot_root, then the host's tree is detached"

    def execute(self, root: str, calls: Calls = NOW) -> None:
        calls.chdir(root)
        calls.pivot_root(".", ".")
        calls.umount2(".", MNT_DETACH)
        calls.chdir("/")
