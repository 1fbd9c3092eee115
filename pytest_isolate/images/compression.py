"""The bytes of an archive as they were before they were compressed, by what they begin with, never by a name.

Decompression, and the hash of what is read, run in a thread of their own: zlib, lzma, bz2 and hashlib let go of the interpreter
lock while they work, so that the thread that writes files goes on.
"""

from __future__ import annotations

import bz2
import hashlib
import lzma
import os
import queue
import shutil
import subprocess
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from pytest_isolate.model.errors import ImageError

__all__ = ["CHUNK", "Limits", "Pipeline", "beginning", "compression_of"]

CHUNK: Final = 1 << 18
"""Bytes that are read, and at least handed on, at a time."""

_OUT: Final = 1 << 20
"""Bytes that one step of a decompressor may give."""

_AHEAD: Final = 8
"""Chunks that may lie between two threads."""

_MAGIC: Final = (
    (b"\x1f\x8b", "gzip"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"BZh", "bzip2"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)

_PIECE: Final = 1 << 16
"""Bytes, as they lie, that are enough for a first block."""

_TAIL: Final = 1 << 10

_NO_ZSTD: Final = "it is compressed with zstd, which this Python can't read"
_ZSTD_REMEDY: Final = "install the program zstd (apt install zstd), or the Python package zstandard"


@dataclass(frozen=True, slots=True)
class Limits:
    """What an archive may come to.

    Attributes:
        size: bytes, unpacked, per layer: of the archive, and of all its files together, holes included.
        ratio: how many times its compressed size, beyond the first GiB.
        entries: members, per layer.
    """

    size: int = 20_000_000_000
    ratio: int = 200
    entries: int = 2_000_000


_FREE: Final = 1 << 30


def compression_of(begin: bytes) -> str:
    """``gzip``, ``xz``, ``bzip2``, ``zstd``, or ``""`` for anything else, by the first bytes; zstd's skippable frames too."""
    if begin[1:4] == b"\x2a\x4d\x18" and 0x50 <= begin[0] <= 0x5F:
        return "zstd"
    return next((name for magic, name in _MAGIC if begin.startswith(magic)), "")


def beginning(fd: int, offset: int, size: int, count: int) -> tuple[str, bytes | None]:
    """The compression of bytes `offset` to `offset + size`, and the first `count` of them as they were before; None: not known
    without reading more.

    Raises:
        ImageError: they are damaged or truncated, as far as their begin and their last bytes tell, or nothing here can read them.
    """
    raw = os.pread(fd, min(_PIECE, size), offset)
    kind = compression_of(raw)
    if not kind:
        return kind, raw[:count]
    if kind == "xz" and not os.pread(fd, _TAIL, offset + max(0, size - _TAIL)).rstrip(b"\0").endswith(b"YZ"):
        raise ImageError(f"truncated: its {kind} data has no end")  # the magic of its footer
    if (make := _makers()[kind]) is None:
        if shutil.which("zstd") is None and _zstandard() is None:
            raise ImageError(_NO_ZSTD, _ZSTD_REMEDY)
        return kind, None
    try:
        out = make().decompress(raw, count)
    except _damaged() as error:
        raise ImageError(f"damaged: its {kind} data can't be read: {error}") from None
    return kind, out if len(out) == count else None


class _Gzip:
    """zlib's, with a bound on what one call gives: the window grows no faster than it is emptied."""

    def __init__(self) -> None:
        self._object = zlib.decompressobj(wbits=31)

    def decompress(self, data: bytes, max_length: int = -1, /) -> bytes:
        return self._object.decompress(data, max(0, max_length))

    @property
    def eof(self) -> bool:
        return self._object.eof

    @property
    def unused_data(self) -> bytes:
        return self._object.unused_data

    @property
    def left(self) -> bytes:
        return self._object.unconsumed_tail


class Pipeline:
    """Iterates over the chunks of `fd`'s bytes `offset` to `offset + size`, decompressed.

    Args:
        progress: called in the reading thread with the bytes read so far.
        hashed: whether `digest` is wanted.

    Attributes:
        digest: sha256 of the bytes as they lie, in hexadecimal, once all are read; empty where they aren't compressed, for then the
            chunks are these bytes, or where it isn't wanted.
        read: bytes read so far.
    """

    def __init__(
        self,
        fd: int,
        offset: int,
        size: int,
        limits: Limits,
        progress: Callable[[int], None] | None = None,
        *,
        hashed: bool = False,
    ) -> None:
        self._fd, self._offset, self._size, self._limits = fd, offset, size, limits
        self._progress = progress
        self.read = 0
        self.given = 0
        self._queue: queue.Queue[bytes | BaseException | None] = queue.Queue(_AHEAD)
        self._stop = threading.Event()
        self.compression = compression_of(os.pread(fd, min(8, size), offset))
        self._hash = hashlib.sha256() if hashed and self.compression else None
        self._thread = threading.Thread(target=self._run, name="decompress", daemon=True)

    @property
    def digest(self) -> str:
        return self._hash.hexdigest() if self._hash is not None else ""

    def __iter__(self) -> Iterator[bytes]:
        if not self.compression:  # reading costs less than handing over
            for chunk in self._raw():
                self.given += len(chunk)
                self._hold()
                yield chunk
            return
        self._thread.start()
        try:
            while (item := self._queue.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self._stop.set()
            with suppress(queue.Empty):
                while True:
                    self._queue.get_nowait()
            self._thread.join()

    def _put(self, item: bytes | BaseException | None) -> None:
        while not self._stop.is_set():
            with suppress(queue.Full):
                self._queue.put(item, timeout=0.2)
                return
        raise _Stopped

    def _run(self) -> None:
        try:
            for chunk in self._chunks():
                self.given += len(chunk)
                self._hold()
                self._put(chunk)
            self._put(None)
        except _Stopped:
            pass
        except BaseException as error:  # noqa: BLE001 - raised where the chunks are read
            with suppress(_Stopped):
                self._put(error)

    def _hold(self) -> None:
        if self.given > self._limits.size:
            raise ImageError(
                f"it unpacks to more than {self._limits.size} bytes, the cap for a layer",
                "if that is right, a larger one: layers import --max-size",
            )
        if self.compression and self.given > _FREE and self.given > self._limits.ratio * self.read:
            raise ImageError(f"it unpacks to more than {self._limits.ratio} times its size, which no real archive does")

    def _raw(self) -> Iterator[bytes]:
        while self.read < self._size:
            data = os.pread(self._fd, min(CHUNK if self.compression else _OUT, self._size - self.read), self._offset + self.read)
            if not data:
                raise ImageError(f"truncated: it ends after {self.read} of {self._size} bytes")
            self.read += len(data)
            if self._hash is not None:
                self._hash.update(data)
            if self._progress is not None:
                self._progress(self.read)
            yield data

    def _chunks(self) -> Iterator[bytes]:
        made = _makers()[self.compression]
        return self._through_program() if made is None else self._decompressed(made)

    def _decompressed(self, make: Callable[[], Any]) -> Iterator[bytes]:
        """Members that follow one another too, as gzip(1), xz(1) and bzip2(1) take them."""
        now = make()
        for raw in self._raw():
            data, more = raw, False
            while data or more:
                if now.eof:
                    if not (data := data.lstrip(b"\0")):  # padding
                        break
                    now = make()
                out, data, more = _step(now, data, self.compression)
                if out:
                    yield out
        if not now.eof:
            raise ImageError(f"truncated: its {self.compression} data has no end")

    def _through_program(self) -> Iterator[bytes]:
        program = shutil.which("zstd")
        if program is None:
            if (package := _zstandard()) is not None:
                with package.ZstdDecompressor().stream_reader(_Readable(self._raw()), read_across_frames=True) as reader:
                    try:
                        while data := reader.read(CHUNK):
                            yield data
                    except package.ZstdError as error:
                        raise ImageError(f"damaged: its zstd data can't be read: {error}") from None
                return
            raise ImageError(_NO_ZSTD, _ZSTD_REMEDY)
        with subprocess.Popen(
            [program, "-d", "-c", "-q"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as running:
            assert running.stdin is not None
            assert running.stdout is not None
            assert running.stderr is not None
            failed: list[BaseException] = []
            feeder = threading.Thread(target=self._feed, args=(running.stdin, failed), daemon=True)
            feeder.start()
            try:
                while data := running.stdout.read(CHUNK):
                    yield data
                said = running.stderr.read().decode(errors="replace").strip()
                status = running.wait()
                feeder.join()
                if failed:
                    raise failed[0]
                if status:
                    raise ImageError(f"damaged: its zstd data can't be read: {said or f'zstd ended with {status}'}")
            finally:
                running.kill()

    def _feed(self, stdin: Any, failed: list[BaseException]) -> None:
        try:
            with stdin:
                for data in self._raw():
                    stdin.write(data)
        except BrokenPipeError:  # it says why
            for _ in self._raw():
                pass
        except BaseException as error:  # noqa: BLE001 - raised by whoever reads
            failed.append(error)


def _step(now: Any, data: bytes, compression: str) -> tuple[bytes, bytes, bool]:
    """What comes out, at most _OUT bytes; what of `data` is left to be put in; whether more comes out even of nothing."""
    try:
        out = now.decompress(data, _OUT)
    except _damaged() as error:
        raise ImageError(f"damaged: its {compression} data can't be read: {error}") from None
    if now.eof:
        return out, now.unused_data, False
    return (out, now.left, False) if isinstance(now, _Gzip) else (out, b"", not now.needs_input)


class _Stopped(Exception):
    """Nobody reads any more."""


class _Readable:
    """Chunks as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        data = self._rest or next(self._chunks, b"")
        if size < 0:
            size = len(data)
        self._rest = data[size:]
        return data[:size]


def _zstandard() -> Any:
    try:
        import zstandard  # type: ignore[import-not-found, unused-ignore]  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    return zstandard


def _makers() -> dict[str, Callable[[], Any] | None]:
    """By compression; None: a program or a package reads it."""
    return {"gzip": _Gzip, "xz": lzma.LZMADecompressor, "bzip2": bz2.BZ2Decompressor, "zstd": _zstd_module()}


def _zstd_module() -> Callable[[], Any] | None:
    """Of Python 3.14 (PEP 784)."""
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore]  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    return zstd.ZstdDecompressor  # type: ignore[no-any-return, unused-ignore]


def _damaged() -> tuple[type[Exception], ...]:
    """What decompressors raise."""
    errors: tuple[type[Exception], ...] = (zlib.error, lzma.LZMAError, OSError, ValueError)
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore]  # pyright: ignore[reportMissingImports]
    except ImportError:
        return errors
    return (*errors, zstd.ZstdError)
