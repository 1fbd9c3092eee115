"""Writable layers on a disk with a cap: a file system of that size for each sandbox, in a file without a name.

A directory has no cap of its own, and project quotas only where the file system was made and mounted for them. A file system in a file, by
a loop device, is there for root nearly everywhere. It is made once per size (mkfs.ext4(8): 20 ms for 512 MiB) and copied for each sandbox
(0.1 ms, for it has 130 kB of contents; attaching and mounting it 2 ms). Its file is unlinked as soon as it is open, the loop device lets go of
it with its last user, and the mount is in the sandbox's mount namespace alone: so it all goes with the sandbox, whoever is killed.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import ClassVar, Final

from pytest_isolate.kernel.calls import NOW, Calls
from pytest_isolate.kernel.loop import CONTROL, attach, shut_down
from pytest_isolate.kernel.mounts import MS_NODEV, MS_NOSUID
from pytest_isolate.model.errors import MissingCapability, SetupError
from pytest_isolate.rootfs.plan import UPPER, Operation
from pytest_isolate.sandbox.sizes import used_bytes

__all__ = ["Capped", "Templates", "cap", "give_up", "only_root", "program"]

_BLOCK: Final = 4096
_LEAST: Final = 256
"""Blocks of the smallest file system that mkfs makes with room in it."""
_SLACK: Final = 16
"""Blocks beyond the cap: for directories, so that a file as large as the cap fits."""
_EXCESS: Final = "excess"
_PLACES: Final = "/usr/local/sbin:/usr/sbin:/sbin"
_FULL: Final = "make room there, or name another place: --isolate-store=PATH"

# What is written is thrown away: nothing needs a journal, to be flushed, or to be zeroed first. An inode for each block.
_MAKE: Final = ("-q", "-F", "-b", str(_BLOCK), "-i", str(_BLOCK), "-m", "0", "-O", "^has_journal,^resize_inode", "-E", "lazy_itable_init=1,nodiscard")  # fmt: skip
_OPTIONS: Final = "noinit_itable,nobarrier"


@dataclass(frozen=True, slots=True)
class Capped(Operation):
    """The file system on the loop device `device` takes every write of this sandbox."""

    step: ClassVar[str] = "mount ext4"
    device: str
    target: str = UPPER

    def describe(self) -> str:
        return f"file system on {self.device} for writes"

    def execute(self, root: str, calls: Calls = NOW) -> None:
        del root  # beside it
        calls.mount(self.device, UPPER, "ext4", MS_NOSUID | MS_NODEV, _OPTIONS)
        calls.chmod(UPPER, 0o700)

    def hint(self, number: int) -> str:
        return "modprobe ext4" if number == errno.ENODEV else 'cap a tmpfs: upper="tmpfs"'

    def refused(self, error: OSError) -> SetupError:
        if error.errno in (errno.EPERM, errno.EACCES):  # root of a container
            return MissingCapability("loop-device", ["disk"], f"mounting one: {error.strerror}", self.hint(error.errno))
        return Operation.refused(self, error)


class Templates:
    """Empty file systems, by size."""

    def __init__(self) -> None:
        self._made: dict[int, int] = {}

    @contextmanager
    def copied(self, directory: str, size: int) -> Iterator[Capped]:
        """One with room for `size` bytes, in a file in `directory`, to be mounted within the block. Raises SetupError, MissingCapability."""
        if size not in self._made:
            self._made[size] = _template(directory, size)
        try:
            file = _copy(self._made[size], directory)
        except OSError as error:
            raise SetupError.from_os_error("copy the empty file system", error, directory, _FULL) from None
        try:
            device, fd = attach(file, _BLOCK)
        except OSError as error:
            raise _no_loop_device(error) from None
        finally:
            os.close(file)
        try:
            yield Capped(device)
        finally:
            os.close(fd)

    def close(self) -> None:
        while self._made:
            os.close(self._made.popitem()[1])


def cap(upper: int, size: int) -> int:
    """Leave room for `size` bytes in the file system of the directory `upper`, which was made with more: what it needs for itself can't be
    known before.

    Returns:
        Bytes that are in use now.

    Raises:
        SetupError
    """
    try:
        if (excess := os.fstatvfs(upper).f_bavail - _blocks(size) - _SLACK) > 0:
            fd = os.open(_EXCESS, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=upper)
            try:
                os.posix_fallocate(fd, 0, excess * _BLOCK)
            finally:
                os.close(fd)
        return used_bytes(os.fstatvfs(upper)) or 0
    except OSError as error:
        raise SetupError.from_os_error("cap the file system", error, hint=_FULL) from None


def give_up(upper: int) -> None:
    """Forget what was written to the file system of the directory `upper`, instead of writing it back when it is unmounted."""
    with suppress(OSError):
        fd = os.open(f"/proc/self/fd/{upper}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            shut_down(fd)
        finally:
            os.close(fd)


def only_root() -> MissingCapability:
    """Why a builder in a user namespace has none."""
    why = 'a cap on upper="disk" is a file system of that size, which only root can mount'
    return MissingCapability("loop-device", ["disk"], why, 'run as root, or cap a tmpfs: upper="tmpfs"')


def program() -> str:
    """The path of what makes the file systems. Raises MissingCapability."""
    found = shutil.which("mkfs.ext4") or shutil.which("mkfs.ext4", path=_PLACES)
    if found is None:
        raise MissingCapability("mkfs.ext4", ["disk"], "there is no such program", "apt install e2fsprogs")
    return found


def _no_loop_device(error: OSError) -> MissingCapability:
    path = str(error.filename or CONTROL)
    hints = {
        errno.ENOENT: f"modprobe loop; in a container, start it with --device={CONTROL} and --device={path}",
        errno.EBUSY: "detach some: losetup --detach-all",
    }
    why = f"{path}: {errno.errorcode.get(error.errno or 0, error.errno)} ({error.strerror})"
    return MissingCapability(
        "loop-device", ["disk"], why, hints.get(error.errno or 0, 'start the container with --privileged, or upper="tmpfs"')
    )


def _nameless(directory: str) -> int:
    """An fd of an empty file, which nobody else will see."""
    fd, path = tempfile.mkstemp(dir=directory)
    os.unlink(path)
    return fd


def _blocks(size: int) -> int:
    return -(-size // _BLOCK)


def _template(directory: str, size: int) -> int:
    """An fd of an empty file system with room for `size` bytes at least."""
    command = (program(), *_MAKE)
    try:
        fd = _nameless(directory)
        # An inode of 256 bytes for each block, a fiftieth that ext4 keeps for itself, and the bitmaps.
        os.ftruncate(fd, (_blocks(size) * 10 // 9 + _LEAST) * _BLOCK)
        done = subprocess.run(
            [*command, f"/proc/self/fd/{fd}"], pass_fds=(fd,), stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
    except OSError as error:
        raise SetupError.from_os_error("make an empty file system", error, directory, _FULL) from None
    if done.returncode:
        os.close(fd)
        said = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise SetupError("mkfs.ext4", directory, detail=said or f"it ended with {done.returncode}", hint=_FULL)
    return fd


def _copy(template: int, directory: str) -> int:
    fd = _nameless(directory)
    try:
        size = os.fstat(template).st_size
        os.ftruncate(fd, size)
        end = 0
        while True:
            try:
                begin = os.lseek(template, end, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # nothing but a hole
                    return fd
                raise
            end = os.lseek(template, begin, os.SEEK_HOLE)
            while begin < end:
                begin += os.copy_file_range(template, fd, end - begin, begin, begin)
    except BaseException:
        os.close(fd)
        raise
