"""The files of an image: in a directory, or members of a tar archive, which may be compressed as a whole."""

from __future__ import annotations

import hashlib
import os
import posixpath
import stat
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from pytest_isolate.images.compression import Limits, Pipeline, compression_of
from pytest_isolate.images.image import Blob
from pytest_isolate.model.errors import ImageError

__all__ = ["DirectoryFiles", "Files", "TarFiles", "open_file"]

_LARGEST_DOCUMENT: Final = 8 << 20
"""Bytes of a JSON document; containerd takes no more either."""
_MOST_MEMBERS: Final = 100_000
_MOST_LINKS: Final = 10


def open_file(path: str) -> int:
    """An fd of a regular file, to read. Raises ImageError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise unreadable(error, path) from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ImageError(f"{path}: it is no regular file", "name an archive")
    return fd


def unreadable(error: OSError, path: str) -> ImageError:
    """The error for a path that can't be opened."""
    import errno

    hint = {errno.ENOENT: "check the path", errno.EACCES: f"chmod a+r {path}, or run as who may read it"}.get(
        error.errno or 0, ""
    )
    return ImageError(f"{path}: {errno.errorcode.get(error.errno or 0, error.errno)} ({error.strerror})", hint)


class Files(Protocol):
    """Where an image's files are found by name."""

    def find(self, name: str) -> Blob | None:
        """Where `name` lies; None: nowhere."""
        ...


def read(blob: Blob) -> bytes:
    """A document. Raises ImageError, also where it isn't what its digest says."""
    if blob.size > _LARGEST_DOCUMENT:
        raise ImageError(f"{blob.name} has {blob.size} bytes, of which {_LARGEST_DOCUMENT} are taken")
    fd = open_file(blob.path)
    try:
        data = os.pread(fd, blob.size, blob.offset)
    finally:
        os.close(fd)
    if blob.digest and hashlib.sha256(data).hexdigest() != blob.digest:
        raise ImageError(f"{blob.name}: digest mismatch: its content is sha256:{hashlib.sha256(data).hexdigest()}")
    return data


class DirectoryFiles:
    def __init__(self, path: str) -> None:
        self._path = path

    def find(self, name: str) -> Blob | None:
        path = os.path.join(self._path, name)
        try:
            status = os.stat(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise unreadable(error, path) from None
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"{name} is no regular file")
        return Blob(path, 0, status.st_size, name=name)


class TarFiles:
    """
    Args:
        path: the archive, uncompressed.

    Raises:
        ImageError: it can't be read.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._members: dict[str, tarfile.TarInfo] = {}
        size = os.stat(path).st_size
        try:
            with tarfile.open(path, "r:") as archive:
                for number, member in enumerate(archive):
                    if number >= _MOST_MEMBERS:
                        raise ImageError(f"more than {_MOST_MEMBERS} members, which no archive of an image has")
                    if member.isreg() and member.offset_data + member.size > size:
                        raise ImageError(f"truncated: it ends within {member.name!r}")
                    self._members[posixpath.normpath(member.name)] = member
        except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
            raise ImageError(f"it is no tar archive that can be read: {error}") from None
        except OSError as error:
            raise unreadable(error, path) from None

    def find(self, name: str) -> Blob | None:
        where = name
        for _ in range(_MOST_LINKS):
            member = self._members.get(posixpath.normpath(where))
            if member is None:
                return None
            if member.issym():  # docker save before 25 stores a layer that two images share once
                where = posixpath.join(posixpath.dirname(member.name), member.linkname)
            elif member.islnk():
                where = member.linkname
            elif member.isreg() and not member.issparse():
                return Blob(self._path, member.offset_data, member.size, name=name)
            else:
                break
        raise ImageError(f"{name} is no regular file")


@contextmanager
def files_of(path: str, scratch: str, limits: Limits) -> Iterator[Files]:
    """The files of a directory or an archive. One that is compressed as a whole is decompressed into the directory `scratch` for the time.

    Raises:
        ImageError
    """
    if os.path.isdir(path):
        yield DirectoryFiles(path)
        return
    fd = open_file(path)
    try:
        size = os.fstat(fd).st_size
        if not compression_of(os.pread(fd, 8, 0)):
            yield TarFiles(path)
            return
        plain = os.path.join(scratch, "archive.tar")
        with open(plain, "xb") as file:
            file.writelines(Pipeline(fd, 0, size, limits))
        try:
            yield TarFiles(plain)
        finally:
            os.unlink(plain)
    finally:
        os.close(fd)
