"""Frames between the pytest process and a test process: length, then JSON, over a pair of UNIX sockets.

JSON and not pickle, because what comes out of a sandbox is data, never code. `encode` keeps what JSON loses
(tuples, mappings with other keys than strings) and replaces what it can't carry by a readable stand-in, with
a note that ends up in the report. The child's end blocks; the parent's end never does, `Inbox` puts the
pieces together.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any, Final

from _pytest._io.saferepr import saferepr

__all__ = ["Frame", "Inbox", "Line", "encode", "framed", "pair"]

Frame = dict[str, Any]

_HEAD: Final = struct.Struct("!I")
_DEEPEST: Final = 60
_TUPLE: Final = "()"
_MAPPING: Final = "{}"
_PLAIN: Final = frozenset({str, int, float, bool, type(None)})
_dumps: Final = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode


def pair() -> tuple[int, int]:
    """Two connected descriptors: the parent's and the child's."""
    ours, theirs = socket.socketpair()
    return ours.detach(), theirs.detach()


def encode(frame: Frame) -> tuple[bytes, list[str]]:
    """`frame` as JSON, and a note on each value that had to be replaced."""
    notes: list[str] = []
    try:
        return _dumps(_plain(frame, notes, _keep, 0)).encode(), notes
    except UnicodeEncodeError:
        notes = ["text that is not valid Unicode: undecodable bytes are shown as \\udcNN"]
        return _dumps(_plain(frame, notes, _escaped, 0)).encode(), notes


def decode(data: bytes) -> Frame:
    frame: Frame = json.loads(data, object_hook=_restored)
    return frame


def _keep(text: str) -> str:
    return text


def _escaped(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _plain(value: Any, notes: list[str], text: Callable[[str], str], depth: int) -> Any:  # noqa: C901 - one case a kind of value
    kind = type(value)
    if kind is str:
        return text(value)
    if kind in _PLAIN:
        return value
    if depth > _DEEPEST:
        return _replaced(value, notes, text)
    if isinstance(value, dict):
        if all(type(key) is str for key in value) and _TUPLE not in value and _MAPPING not in value:
            return {text(key): _plain(part, notes, text, depth + 1) for key, part in value.items()}
        return {_MAPPING: [[_plain(part, notes, text, depth + 1) for part in pair] for pair in value.items()]}
    if isinstance(value, tuple):
        return {_TUPLE: [_plain(part, notes, text, depth + 1) for part in value]}
    if isinstance(value, list):
        return [_plain(part, notes, text, depth + 1) for part in value]
    if isinstance(value, str):
        return text(str.__str__(value))
    if isinstance(value, (int, float)):  # bool, IntEnum and numbers of libraries that subclass them
        return int(value) if isinstance(value, int) else float(value)
    if isinstance(value, os.PathLike):
        return text(os.fsdecode(value))
    return _replaced(value, notes, text)


def _replaced(value: Any, notes: list[str], text: Callable[[str], str]) -> str:
    shown = text(saferepr(value))
    notes.append(f"a value of type {type(value).__qualname__} can't leave the test process, its repr is shown: {shown}")
    return shown


def _restored(value: Frame) -> Any:
    if len(value) == 1:
        if _TUPLE in value:
            return tuple(value[_TUPLE])
        if _MAPPING in value:
            return {tuple(key) if isinstance(key, list) else key: part for key, part in value[_MAPPING]}
    return value


class Inbox:
    """The parent's receiving end: bytes in as they come, whole frames out."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._bytes = bytearray()
        os.set_blocking(fd, False)

    def drain(self) -> bool:
        """Take in what is there, without waiting. False at the end of the stream."""
        try:
            while chunk := os.read(self._fd, 1 << 16):
                self._bytes += chunk
                if len(chunk) < 1 << 16:
                    return True
        except BlockingIOError:
            return True
        except ConnectionResetError:  # the other end was closed with unread data
            return False
        return False

    def next(self) -> Frame | None:
        """The oldest whole frame; None if there is none yet. Raises ValueError for what is no frame."""
        data = self._bytes
        if len(data) < _HEAD.size:
            return None
        (length,) = _HEAD.unpack_from(data)
        end = _HEAD.size + length
        if len(data) < end:
            return None
        frame = decode(bytes(data[_HEAD.size : end]))
        del data[:end]
        return frame


class Line:
    """The child's end.

    It belongs to one process: a process that the test forked, and that comes back up pytest's stack, must
    not send reports in its name. Threads of the test share it: whoever waits for an answer reads what comes, and leaves to
    the others what is theirs. An answer names its question, so that one which nobody waits for any more (Ctrl-C) is taken
    for no other.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._pid = os.getpid()
        self._turn = threading.Lock()
        self._came = threading.Condition()
        self._reading = False
        self._answers: dict[int, Frame] = {}
        self._abandoned: set[int] = set()
        self._asked = itertools.count(1)
        self._bytes = bytearray()

    def mine(self) -> bool:
        return os.getpid() == self._pid

    def send(self, frame: Frame) -> list[str]:
        """Returns the notes of `encode`. Raises OSError if the pytest process is gone or the test closed the descriptor."""
        data, notes = encode(frame)
        self.send_encoded(data)
        return notes

    def send_encoded(self, data: bytes) -> None:
        with self._turn:
            send(self._fd, data)

    def ask(self, frame: Frame) -> Frame:
        """Send and wait for the answer; also from threads of the test. Raises OSError, EOFError."""
        number = next(self._asked)
        try:
            self.send({**frame, "id": number})
            return self.receive(number)
        except BaseException:
            self._abandoned.add(number)
            raise

    def receive(self, number: int = 0) -> Frame:
        """The answer to that question, or the next frame that answers none. Raises EOFError if the pytest process is gone."""
        while True:
            with self._came:
                self._came.wait_for(lambda: number in self._answers or not self._reading)
                if number in self._answers:
                    return self._answers.pop(number)
                self._reading = True
            frame = None
            try:
                frame = self._read()
            finally:
                with self._came:  # at once: whoever wakes up must find its answer, or would read on and wait for good
                    self._reading = False
                    if frame is not None:
                        self._deliver(frame)
                    self._came.notify_all()

    def _deliver(self, frame: Frame) -> None:
        number = frame.get("id", 0)
        if number in self._abandoned:
            self._abandoned.discard(number)
        else:
            self._answers[number] = frame

    def _read(self) -> Frame:
        """What has come of a frame stays here, if a signal's handler raises meanwhile."""
        self._fill(_HEAD.size)
        (length,) = _HEAD.unpack_from(self._bytes)
        self._fill(_HEAD.size + length)
        frame = decode(bytes(self._bytes[_HEAD.size : _HEAD.size + length]))
        del self._bytes[: _HEAD.size + length]
        return frame

    def _fill(self, length: int) -> None:
        while (missing := length - len(self._bytes)) > 0:
            chunk = os.read(self._fd, missing)
            if not chunk:
                raise EOFError("the pytest process is gone")
            self._bytes += chunk


def framed(data: bytes) -> bytes:
    """One frame whose JSON is `data`, as it is sent."""
    return _HEAD.pack(len(data)) + data


def send(fd: int, data: bytes) -> None:
    """Write one frame whose JSON is `data`, whole. Raises OSError."""
    view = memoryview(framed(data))
    while view:
        view = view[os.write(fd, view) :]
