"""The host's end of a machine's ports; the frames are described in `guest/usr/local/lib/vm/agent.py`, which is the other end."""

from __future__ import annotations

import fcntl
import json
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

__all__ = ["PORTS", "Channel", "Unreachable"]

PORTS: Final = 4
"""As many commands at a time."""

_ASK: Final = 2.0
"""Seconds after which the agent is asked again."""

_HEADER: Final = struct.Struct(">cI")


class Unreachable(Exception):
    """The machine isn't there, or doesn't answer."""


class Channel:
    """One port, ours until the end of the `with`. Raises Unreachable where no agent answers within `timeout` seconds."""

    def __init__(self, directory: Path, timeout: float) -> None:
        self._lock = -1
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._connect(directory, time.monotonic() + timeout)
        except OSError as error:
            self.close()
            raise Unreachable(f"{directory.name}: {error}") from error
        except BaseException:
            self.close()
            raise

    def _connect(self, directory: Path, deadline: float) -> None:
        number = self._free_port(directory, deadline)
        self._socket.settimeout(max(0.1, deadline - time.monotonic()))
        self._socket.connect(str(directory / f"port{number}"))
        nonce = os.urandom(16)
        answer = _HEADER.pack(b"P", len(nonce)) + nonce
        # What comes before it is left over from a session that broke off.
        seen = b""
        self._socket.settimeout(_ASK)
        self._send(b"P", nonce)
        while not seen.endswith(answer):
            try:
                seen += self._receive(1)
            except TimeoutError:
                if time.monotonic() > deadline:
                    raise
                self._send(b"P", nonce)  # the agent was just opening the port anew, and threw the first one away
        self._socket.settimeout(None)

    def _free_port(self, directory: Path, deadline: float) -> int:
        """QEMU takes one client per socket and lets others wait without a word."""
        while True:
            for number in range(PORTS):
                lock = os.open(directory / f"port{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(lock)
                else:
                    self._lock = lock
                    return number
            if time.monotonic() > deadline:
                raise TimeoutError(f"all {PORTS} ports are in use")
            time.sleep(0.1)

    def run(
        self,
        argv: Sequence[str],
        *,
        out: BinaryIO,
        err: BinaryIO,
        given: BinaryIO | int | None = None,
        stop: Sequence[str] = (),
        tty: tuple[int, int] | None = None,
        timeout: float | None = None,
    ) -> int:
        """Run a command as root; its exit status, negative for a signal.

        Args:
            given: its standard input, read to the end; None: empty.
            stop: what ends it, besides killing it, when we go away early.
            tty: rows and columns: it gets a terminal.
            timeout: seconds, then TimeoutError is raised, and closing the channel ends the command.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        self._send(b"R", json.dumps({"argv": list(argv), "stop": list(stop), "tty": list(tty or ())}).encode())
        feeder = threading.Thread(target=self._feed, args=(given,), daemon=True)
        feeder.start()
        while True:
            if deadline is not None and not select.select([self._socket], [], [], max(0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"still running after {timeout:.0f} s: {' '.join(argv)}")
            kind, length = _HEADER.unpack(self._receive(_HEADER.size))
            payload = self._receive(length)
            if kind == b"P":  # the answer to a question that was asked twice
                continue
            if kind == b"X":
                return int(payload)
            sink = out if kind == b"O" else err
            sink.write(payload)
            sink.flush()

    def _feed(self, given: BinaryIO | int | None) -> None:
        try:
            if given is not None:
                descriptor = given if isinstance(given, int) else given.fileno()
                while data := os.read(descriptor, 1 << 15):
                    self._send(b"I", data)
            self._send(b"I", b"")
        except OSError:  # the machine is gone, which the reader says
            pass

    def _send(self, kind: bytes, payload: bytes) -> None:
        self._socket.sendall(_HEADER.pack(kind, len(payload)) + payload)

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._socket.recv(size - len(data))
            if not more:
                raise Unreachable("the machine went away")
            data += more
        return data

    def close(self) -> None:
        self._socket.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
