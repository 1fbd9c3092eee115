"""The contents of files: written with their holes, and hashed beside that.

A hash of large pieces runs without the interpreter's lock, so that it costs a second core, not time.
"""

from __future__ import annotations

import errno
import hashlib
import os
import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from hashlib import _Hash

__all__ = ["Content", "Hasher", "copy_contents", "hash_contents"]

_CHUNK: Final = 1 << 20
_HOLE: Final = 1 << 14
"""Bytes: runs of zeros at least this long, at multiples of it, become holes."""
_EMPTY: Final = bytes(_HOLE)
_ZEROS: Final = bytes(1 << 20)
_AHEAD: Final = 64
"""Chunks that may wait to be hashed."""


class Hasher:
    """A thread that hashes, in the order of submission."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[_Hash, bytes | memoryview, bool] | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(_AHEAD)
        self._thread = threading.Thread(target=self._run, name="hash", daemon=True)
        self._thread.start()

    def submit(self, into: _Hash, piece: bytes | memoryview) -> None:
        """Add `piece`, which is a part of a chunk that `passing` gave."""
        self._queue.put((into, piece, False))

    def passing(self, chunks: Iterable[bytes], into: _Hash) -> Iterator[bytes]:
        """`chunks`, each hashed on its way; waits where too many aren't hashed yet."""
        for chunk in chunks:
            self._room.acquire()
            self._queue.put((into, chunk, True))
            yield chunk

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            into, piece, chunk = item
            into.update(piece)
            if chunk:
                self._room.release()

    def close(self) -> None:
        """Wait until all is hashed."""
        self._queue.put(None)
        self._thread.join()


class Content:
    """A file that is written from its beginning, runs of zeros left out.

    Args:
        fd: of the empty file.
        hasher: hashes it; None: it is hashed as it is written.
    """

    def __init__(self, fd: int, hasher: Hasher | None = None) -> None:
        self._fd, self._hasher = fd, hasher
        self._hash = hashlib.sha256()
        self._offset = 0
        self._hole = False

    def write(self, piece: memoryview) -> None:
        self._count(piece)
        if len(piece) < _HOLE:
            self._put(piece)
            return
        start, at = 0, -self._offset % _HOLE
        while at + _HOLE <= len(piece):
            if piece[at] == 0 and piece[at + _HOLE - 1] == 0 and bytes(piece[at : at + _HOLE]) == _EMPTY:
                self._put(piece[start:at])
                self._offset += _HOLE
                self._hole = True
                start = at + _HOLE
            at += _HOLE
        self._put(piece[start:])

    def _put(self, piece: memoryview) -> None:
        if self._hole and piece:
            os.lseek(self._fd, self._offset, os.SEEK_SET)
            self._hole = False
        while piece:
            written = os.write(self._fd, piece)
            self._offset += written
            piece = piece[written:]

    def hole(self, until: int) -> None:
        """Leave out what lies before `until`."""
        missing = until - self._offset
        if missing > 0:
            self._hole = True
            self._offset = until
        while missing > 0:
            self._count(_ZEROS[: min(missing, len(_ZEROS))])
            missing -= len(_ZEROS)

    def end(self, size: int) -> None:
        self.hole(size)
        if self._hole:
            os.ftruncate(self._fd, size)

    def _count(self, piece: bytes | memoryview) -> None:
        if self._hasher is None:
            self._hash.update(piece)
        else:
            self._hasher.submit(self._hash, piece)

    def digest(self) -> bytes:
        """sha256; with a hasher, once that is closed."""
        return self._hash.digest()


def copy_contents(source: int, target: int, size: int) -> bytes:
    """Copy a file, its holes as holes. Returns its sha256."""
    content = Content(target)
    offset = 0
    while offset < size:
        try:
            begin = os.lseek(source, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole
                break
            raise
        end = os.lseek(source, begin, os.SEEK_HOLE)
        content.hole(begin)
        while begin < end and (data := os.pread(source, min(_CHUNK, end - begin), begin)):
            content.write(memoryview(data))
            begin += len(data)
        offset = end
    content.end(size)
    return content.digest()


def hash_contents(fd: int) -> bytes:
    """sha256 of a file."""
    hashed = hashlib.sha256()
    while data := os.read(fd, _CHUNK):
        hashed.update(data)
    return hashed.digest()
