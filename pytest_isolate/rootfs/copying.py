"""Copies an upper directory in overlayfs's format, so that the copy can be an upper or a layer as well.

Kept are contents with their holes, hard links within the tree, modes, owners, times, attributes, whiteouts, opaque directories and
redirects. What overlayfs notes for itself of one mount (where a file was copied up from) is left behind. fuse-overlayfs's spellings
become the kernel's.

Both trees are walked by descriptors, so that no symbolic link in them leads out.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from pytest_isolate.kernel.overlay_marks import DOTTED, OPAQUE_FILE, PRIVATE, is_whiteout

__all__ = ["PRIVILEGED", "UNPRIVILEGED", "copy_tree"]

PRIVILEGED: Final = "trusted.overlay."
UNPRIVILEGED: Final = "user.overlay."

_KEPT: Final = ("opaque", "redirect")
"""Of overlayfs's own attributes, those that say what is in the directory."""

_DEEPEST: Final = 200
_CHUNK: Final = 1 << 26
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def copy_tree(source: int, target: int, prefix: str, *, dotted: bool = False) -> list[str]:
    """Copy what is in one directory, and what the directory itself is, to another one, which is empty.

    Args:
        source, target: descriptors of the two.
        prefix: PRIVILEGED or UNPRIVILEGED: of overlayfs's attributes in the copy.
        dotted: fuse-overlayfs has written `source`.

    Returns:
        What was left out, a sentence each.

    Raises:
        OSError: with the path from `source` on.
    """
    copy = _Copy(target, prefix, dotted=dotted)
    copy.directory(source, target, "", 0)
    return copy.notes


class _Copy:
    """One copy.

    Args:
        top: the directory that all of it goes to.
    """

    def __init__(self, top: int, prefix: str, *, dotted: bool) -> None:
        self.notes: list[str] = []
        self._top = top
        self._prefix = prefix
        self._dotted = dotted
        self._links: dict[tuple[int, int], str] = {}

    def directory(self, source: int, target: int, path: str, depth: int) -> None:
        if depth > _DEEPEST:
            raise OSError(errno.ENAMETOOLONG, f"directories nest deeper than {_DEEPEST} levels", path)
        names = os.listdir(source)
        for name in names:
            with _naming(f"{path}{name}"):
                self._entry(source, target, name, path, depth)
        with _naming(path or "."):
            self._finish(source, target)
            if self._dotted and OPAQUE_FILE in names:
                os.setxattr(target, f"{self._prefix}opaque", b"y")
            status = os.fstat(source)
            os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))

    def _entry(self, source: int, target: int, name: str, path: str, depth: int) -> None:
        status = os.stat(name, dir_fd=source, follow_symlinks=False)
        if self._dotted and name.startswith(DOTTED):
            if name != OPAQUE_FILE:
                _whiteout(name.removeprefix(DOTTED), target)
        elif is_whiteout(status):
            _whiteout(name, target)
        elif stat.S_ISDIR(status.st_mode):
            os.mkdir(name, 0o700, dir_fd=target)
            with _opened(name, _DIRECTORY, source) as inner, _opened(name, _DIRECTORY, target) as copy:
                self.directory(inner, copy, f"{path}{name}/", depth + 1)
        elif (first := self._links.get((status.st_dev, status.st_ino))) is not None:
            os.link(first, name, src_dir_fd=self._top, dst_dir_fd=target, follow_symlinks=False)
        elif stat.S_ISREG(status.st_mode):
            self._file(source, target, name, status)
        elif not self._special(source, target, name, status):
            self.notes.append(f"{path}{name} is left out: it is a device")
            return
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            self._links.setdefault((status.st_dev, status.st_ino), f"{path}{name}")

    def _file(self, source: int, target: int, name: str, status: os.stat_result) -> None:
        making = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with _opened(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, source) as original, _opened(name, making, target) as copy:
            _copy_data(original, copy, status.st_size)
            self._finish(original, copy)
            os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))

    @staticmethod
    def _special(source: int, target: int, name: str, status: os.stat_result) -> bool:
        """A symbolic link, a pipe or a socket. False if it is none of them."""
        if stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        elif stat.S_ISFIFO(status.st_mode) or stat.S_ISSOCK(status.st_mode):
            os.mknod(name, stat.S_IFMT(status.st_mode) | 0o600, dir_fd=target)
        else:
            return False
        os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
        if not stat.S_ISLNK(status.st_mode):
            os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=target)
        os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=target, follow_symlinks=False)
        return True

    def _finish(self, source: int, target: int) -> None:
        """Owner, mode and attributes; in this order, since a new owner takes away set-user-ID, and a mode can forbid attributes."""
        status = os.fstat(source)
        os.fchown(target, status.st_uid, status.st_gid)
        for name in os.listxattr(source):
            private = next((prefix for prefix in PRIVATE if name.startswith(prefix)), None)
            if private is None:
                self._attribute(source, target, name)
            elif name.removeprefix(private) in _KEPT:
                os.setxattr(target, self._prefix + name.removeprefix(private), os.getxattr(source, name))
        os.fchmod(target, stat.S_IMODE(status.st_mode))

    def _attribute(self, source: int, target: int, name: str) -> None:
        try:
            os.setxattr(target, name, os.getxattr(source, name))
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EPERM):
                raise
            note = f"attributes {name} are left out: {error.strerror}"
            if note not in self.notes:
                self.notes.append(note)


def _whiteout(name: str, directory: int) -> None:
    with suppress(FileExistsError):  # fuse-overlayfs may have spelled it in both ways
        os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=directory)


def _copy_data(source: int, target: int, size: int) -> None:
    """Only what isn't a hole."""
    end = 0
    while end < size:
        try:
            begin = os.lseek(source, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break  # a hole to the end
        end = os.lseek(source, begin, os.SEEK_HOLE)
        os.lseek(target, begin, os.SEEK_SET)
        while begin < end and (copied := os.sendfile(target, source, begin, min(end - begin, _CHUNK))):
            begin += copied
    os.ftruncate(target, size)


@contextmanager
def _opened(name: str, flags: int, directory: int) -> Iterator[int]:
    fd = os.open(name, flags, 0o600, dir_fd=directory)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """An error of a call that had a descriptor names the path."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and "/" in str(error.filename):
            raise
        raise OSError(error.errno, error.strerror, path) from error
