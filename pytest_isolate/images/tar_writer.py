"""A layer as a tar archive: ustar, with pax headers for what doesn't fit (POSIX.1-2017 pax; OCI image-spec, layer.md)."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from typing import BinaryIO, Final

from pytest_isolate.images.owners import Owners
from pytest_isolate.images.tree_record import LABEL
from pytest_isolate.kernel.overlay_marks import is_whiteout
from pytest_isolate.model.errors import ImageError

__all__ = ["write_layer"]

_BLOCK: Final = 512
_CHUNK: Final = 1 << 20
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def write_layer(root: int, out: BinaryIO, owners: Owners, progress: Callable[[int], None] | None = None) -> tuple[str, int]:
    """The directory `root` of overlayfs's format as a layer's archive.

    Returns:
        Its sha256 in hexadecimal, and its bytes.

    Raises:
        ImageError: it holds what no layer's archive can say.
        OSError
    """
    writer = _Writer(out, owners, progress)
    writer.directory(b"", root)
    writer.end()
    return writer.hash.hexdigest(), writer.size


class _Writer:
    def __init__(self, out: BinaryIO, owners: Owners, progress: Callable[[int], None] | None) -> None:
        self._out, self._owners, self._progress = out, owners, progress
        self._first: dict[tuple[int, int], bytes] = {}
        self.hash = hashlib.sha256()
        self.size = 0

    def directory(self, path: bytes, fd: int) -> None:
        xattrs = self._xattrs(fd, path)
        if path or xattrs is not None:
            self._member(path + b"/" if path else b"./", b"5", os.fstat(fd), xattrs=xattrs)
        if self._opaque(fd):
            self._empty((path + b"/" if path else b"") + b".wh..wh..opq")
        for name in sorted(map(os.fsencode, os.listdir(fd))):
            self._one(path + b"/" + name if path else name, name, fd)

    def _one(self, path: bytes, name: bytes, parent: int) -> None:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFDIR:
            fd = os.open(name, _DIRECTORY, dir_fd=parent)
            try:
                self.directory(path, fd)
            finally:
                os.close(fd)
            return
        if is_whiteout(status):
            above, slash, _ = path.rpartition(b"/")
            self._empty(above + slash + b".wh." + name)
            return
        if name.startswith(b".wh."):
            raise ImageError(f"{os.fsdecode(path)!r}: in a layer's archive, such a name takes away another file")
        if kind != stat.S_IFDIR and status.st_nlink > 1:
            first = self._first.setdefault((status.st_dev, status.st_ino), path)
            if first is not path:
                self._member(path, b"1", status, link=first)
                return
        where = b"/proc/self/fd/%d/%s" % (parent, name)
        if kind == stat.S_IFREG:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            try:
                self._member(path, b"0", status, xattrs=self._xattrs(fd, path), size=status.st_size)
                self._contents(fd, status.st_size, path)
            finally:
                os.close(fd)
        elif kind == stat.S_IFLNK:
            self._member(path, b"2", status, link=os.readlink(name, dir_fd=parent), xattrs=self._xattrs(where, path))
        elif kind == stat.S_IFIFO:
            self._member(path, b"6", status, xattrs=self._xattrs(where, path))

    def _contents(self, fd: int, size: int, path: bytes) -> None:
        left = size
        while left:
            data = os.read(fd, min(left, _CHUNK))
            if not data:
                raise ImageError(f"{os.fsdecode(path)!r} became shorter while it was read")
            self._write(data)
            left -= len(data)
        self._write(bytes(-size % _BLOCK))

    def _opaque(self, fd: int) -> bool:
        try:
            return os.getxattr(fd, f"{self._owners.attribute}opaque") == b"y"
        except OSError:
            return False

    def _xattrs(self, target: int | bytes, path: bytes) -> dict[bytes, bytes]:
        found = {}
        follow = isinstance(target, int)
        for name in os.listxattr(target, follow_symlinks=follow):
            if name.startswith(self._owners.attribute):
                if name.endswith("overlay.redirect"):
                    raise ImageError(
                        f"{os.fsdecode(path)!r}: a directory of a layer below was renamed to it, which no layer's archive can say"
                    )
            elif name != LABEL:
                value = self._owners.meant_xattr(name, os.getxattr(target, name, follow_symlinks=follow))
                found[b"SCHILY.xattr." + name.encode("utf-8", "surrogateescape")] = value
        return found

    def _empty(self, path: bytes) -> None:
        self._put(path, b"0", 0o600, 0, 0, 0, 0, b"", {})

    def _member(
        self,
        path: bytes,
        kind: bytes,
        status: os.stat_result,
        *,
        link: bytes = b"",
        xattrs: dict[bytes, bytes] | None = None,
        size: int = 0,
    ) -> None:
        uid, gid = self._owners.meant(status.st_uid, status.st_gid)
        self._put(path, kind, stat.S_IMODE(status.st_mode), uid, gid, size, status.st_mtime_ns, link, dict(xattrs or {}))

    def _put(
        self,
        path: bytes,
        kind: bytes,
        mode: int,
        uid: int,
        gid: int,
        size: int,
        mtime: int,
        link: bytes,
        records: dict[bytes, bytes],
    ) -> None:
        whole, part = divmod(mtime, 1_000_000_000)
        records |= {key: value for key, value in ((b"path", path), (b"linkpath", link)) if len(value) > 100}
        for key, number, most in ((b"uid", uid, 0o7777777), (b"gid", gid, 0o7777777), (b"size", size, 0o77777777777)):
            if number > most:
                records[key] = b"%d" % number
        if part or not 0 <= whole <= 0o77777777777:
            records[b"mtime"] = b"%d.%09d" % (whole, part) if whole >= 0 else b"-%d.%09d" % divmod(-mtime, 1_000_000_000)
        if records:
            content = b"".join(_record(key, records[key]) for key in sorted(records))
            self._header(b"PaxHeaders/" + path.rpartition(b"/")[2][:80], b"x", 0o644, 0, 0, len(content), 0, b"")
            self._write(content + bytes(-len(content) % _BLOCK))
        self._header(
            path, kind, mode, uid & 0o7777777, gid & 0o7777777, size & 0o77777777777, max(0, whole) & 0o77777777777, link
        )

    def _header(self, path: bytes, kind: bytes, mode: int, uid: int, gid: int, size: int, mtime: int, link: bytes) -> None:
        fields = (
            path[:100].ljust(100, b"\0"), b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (mode, uid, gid, size, mtime), b" " * 8,
            kind, link[:100].ljust(100, b"\0"), b"ustar\x0000", bytes(64), b"0000000\x000000000\0",
        )  # fmt: skip
        header = b"".join(fields).ljust(_BLOCK, b"\0")
        self._write(header[:148] + b"%06o\0 " % sum(header) + header[156:])

    def _write(self, data: bytes) -> None:
        self._out.write(data)
        self.hash.update(data)
        self.size += len(data)
        if self._progress is not None:
            self._progress(self.size)

    def end(self) -> None:
        self._write(bytes(2 * _BLOCK))


def _record(key: bytes, value: bytes) -> bytes:
    """``LENGTH KEY=VALUE``, where LENGTH counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if rest + len(str(length)) != length:
        length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)
