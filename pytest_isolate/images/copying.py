"""Layers as they lie: copied from an overlay's upper directory, or read to see what is there."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

from pytest_isolate.images.content import copy_contents, hash_contents
from pytest_isolate.images.owners import Owners
from pytest_isolate.images.tree import Notes
from pytest_isolate.images.tree_record import LABEL, Entry
from pytest_isolate.kernel.overlay_marks import is_whiteout
from pytest_isolate.model.errors import ImageError

__all__ = ["copy_tree", "entries_of"]

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_KINDS: Final = {
    stat.S_IFREG: "f",
    stat.S_IFDIR: "d",
    stat.S_IFLNK: "l",
    stat.S_IFIFO: "p",
    stat.S_IFCHR: "c",
    stat.S_IFBLK: "b",
    stat.S_IFSOCK: "s",
}
_MEANINGFUL: Final = ("overlay.opaque", "overlay.redirect")
"""Of what overlayfs keeps on an upper's files: the rest (origin, impure, nlink, uuid) is about the lower layers' inodes."""


def entries_of(root: int, owners: Owners, progress: Callable[[int], None] | None = None) -> dict[bytes, Entry]:
    """What the directory `root` holds, by path. Raises ImageError, naming the path."""
    return _Walk(owners, progress).run(root, None)


def copy_tree(
    source: int, target: int, owners: Owners, notes: Notes, progress: Callable[[int], None] | None = None
) -> dict[bytes, Entry]:
    """Copy what the directory `source` holds into the empty directory `target`: sockets and devices are left out with a note.

    Raises:
        ImageError: naming the path.
    """
    return _Walk(owners, progress, notes).run(source, target)


class _Walk:
    def __init__(self, owners: Owners, progress: Callable[[int], None] | None, notes: Notes | None = None) -> None:
        self._owners, self._progress, self._notes = owners, progress, notes
        self._entries: dict[bytes, Entry] = {}
        self._first: dict[tuple[int, int], tuple[bytes, Entry]] = {}
        self._root_target = -1
        self._done = 0

    def run(self, source: int, target: int | None) -> dict[bytes, Entry]:
        if target is not None:
            self._root_target = target
        self._directory(b"", source, target)
        return self._entries

    def _directory(self, path: bytes, source: int, target: int | None) -> None:
        status = os.fstat(source)
        entry = self._entry("d", status)
        entry.xattrs = self._xattrs(source, path, target)
        self._entries[path] = entry
        for name in sorted(map(os.fsencode, os.listdir(source))):
            inner = path + b"/" + name if path else name
            try:
                self._one(inner, name, source, target)
            except OSError as error:
                code = errno.errorcode.get(error.errno or 0, str(error.errno))
                raise ImageError(f"{os.fsdecode(inner)!r}: {code} ({error.strerror})") from error
        if target is not None:
            self._own(target, path, status, entry)
            os.fchmod(target, stat.S_IMODE(status.st_mode))
            os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns))

    def _one(self, path: bytes, name: bytes, source: int, target: int | None) -> None:
        status = os.stat(name, dir_fd=source, follow_symlinks=False)
        kind = "w" if is_whiteout(status) else _KINDS[stat.S_IFMT(status.st_mode)]
        if kind in "cbs":
            if self._notes is not None:
                self._notes.add("device nodes left out" if kind != "s" else "sockets left out", path)
                return
            self._entries[path] = self._entry(kind, status)
            return
        if kind == "d":
            inner = os.open(name, _DIRECTORY, dir_fd=source)
            try:
                if target is None:
                    self._directory(path, inner, None)
                else:
                    os.mkdir(name, 0o700, dir_fd=target)
                    made = os.open(name, _DIRECTORY, dir_fd=target)
                    try:
                        self._directory(path, inner, made)
                    finally:
                        os.close(made)
            finally:
                os.close(inner)
            return
        if status.st_nlink > 1 and kind != "w":
            known = self._first.get((status.st_dev, status.st_ino))
            if known is not None:
                first, entry = known
                entry.identity = status.st_ino
                self._entries[path] = entry
                if target is not None:
                    os.link(first, name, src_dir_fd=self._root_target, dst_dir_fd=target, follow_symlinks=False)
                return
        entry = (
            self._file(path, name, source, target, status)
            if kind == "f"
            else self._special(kind, path, name, source, target, status)
        )
        self._entries[path] = entry
        if status.st_nlink > 1:
            self._first[status.st_dev, status.st_ino] = path, entry

    def _file(self, path: bytes, name: bytes, source: int, target: int | None, status: os.stat_result) -> Entry:
        entry = self._entry("f", status)
        entry.size = status.st_size
        fd = os.open(name, _FILE, dir_fd=source)
        try:
            if target is None:
                entry.content = hash_contents(fd)
                entry.xattrs = self._xattrs(fd, path, None)
            else:
                made = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=target)
                try:
                    entry.content = copy_contents(fd, made, status.st_size)
                    self._own(made, path, status, entry)
                    os.fchmod(made, stat.S_IMODE(status.st_mode))
                    entry.xattrs = self._xattrs(fd, path, made)
                    os.utime(made, ns=(status.st_mtime_ns, status.st_mtime_ns))
                finally:
                    os.close(made)
        finally:
            os.close(fd)
        self._done += status.st_size
        if self._progress is not None:
            self._progress(self._done)
        return entry

    def _special(self, kind: str, path: bytes, name: bytes, source: int, target: int | None, status: os.stat_result) -> Entry:
        entry = self._entry(kind, status)
        if kind == "w":
            entry.mode = 0
            if target is not None:
                os.mknod(name, stat.S_IFCHR, 0, dir_fd=target)
            return entry
        if kind == "l":
            entry.content = os.readlink(name, dir_fd=source)
        if target is not None:
            if kind == "l":
                os.symlink(entry.content, name, dir_fd=target)
            else:
                os.mkfifo(name, 0o600, dir_fd=target)
            self._own(name, path, status, entry, target)
            if kind == "p":
                os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=target)
        where = b"/proc/self/fd/%d/%s"
        entry.xattrs = self._xattrs(where % (source, name), path, None if target is None else where % (target, name))
        if target is not None:
            os.utime(name, ns=(status.st_mtime_ns, status.st_mtime_ns), dir_fd=target, follow_symlinks=False)
        return entry

    def _own(self, what: int | bytes, path: bytes, status: os.stat_result, entry: Entry, directory: int | None = None) -> None:
        """Give a copy its owner; an owner that isn't mapped here can't be given (EINVAL): it stays the image's root."""
        try:
            if isinstance(what, int):
                os.fchown(what, status.st_uid, status.st_gid)
            else:
                os.chown(what, status.st_uid, status.st_gid, dir_fd=directory, follow_symlinks=False)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            assert self._notes is not None
            self._notes.add("owned by root instead, since the owner isn't mapped here", path)
            entry.uid, entry.gid = 0, 0

    def _entry(self, kind: str, status: os.stat_result) -> Entry:
        uid, gid = (0, 0) if kind == "w" else self._owners.meant(status.st_uid, status.st_gid)
        return Entry(kind, stat.S_IMODE(status.st_mode), uid, gid)

    def _xattrs(self, source: int | bytes, path: bytes, target: int | bytes | None) -> dict[str, bytes]:
        """Those that are there, or were copied."""
        found: dict[str, bytes] = {}
        for name, value in _attributes(source):
            short = name.partition(".")[2]
            if name == LABEL or (short.startswith("overlay.") and short not in _MEANINGFUL and self._notes is not None):
                continue
            if target is not None:
                try:
                    if isinstance(target, int):
                        os.setxattr(target, name, value)
                    else:
                        os.setxattr(target, name, value, follow_symlinks=False)
                except OSError as error:
                    assert self._notes is not None
                    self._notes.add(f"extended attribute {name} can't be set here ({error.strerror})", path)
                    continue
            own = name.startswith(self._owners.attribute)
            found[short if own else name] = self._owners.meant_xattr(name, value)
        return found


def _attributes(target: int | bytes) -> Iterator[tuple[str, bytes]]:
    if isinstance(target, int):
        names = os.listxattr(target)
        yield from ((name, os.getxattr(target, name)) for name in names)
        return
    with suppress(OSError):
        for name in os.listxattr(target, follow_symlinks=False):
            yield name, os.getxattr(target, name, follow_symlinks=False)
