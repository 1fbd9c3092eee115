"""Runs commands that the host sends over virtio-serial ports: as root, one at a time on each port.

Frames both ways: one byte of kind, four of length (big endian), the payload.

From the host: `P` a nonce, begins a session and ends what still runs from the one before; `R` {"argv", "stop", "tty"} as JSON, starts
a command; `I` its input, empty at the end. To the host: `P` the nonce back; `O` and `E` output; `X` the exit status in decimal. When
the host hangs up, the command is ended: `stop` is run, then its process group is killed.

Runs on the guest's own Python, without anything installed.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import os
import pty
import queue
import select
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator

HEADER = struct.Struct(">cI")


class Command:
    """A running command; a thread feeds it, another one sends what it prints."""

    def __init__(self, argv: list[str], stop: list[str], tty: list[int], send: Callable[[bytes, bytes], None]) -> None:
        self.stop, self.send, self.tty, self.ended = stop, send, bool(tty), False
        self.waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        if tty:
            self.input, inner = pty.openpty()
            fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("4H", *tty, 0, 0))
            self.process = subprocess.Popen(
                ["setsid", "--ctty", "--wait", *argv], stdin=inner, stdout=inner, stderr=inner, start_new_session=True, cwd="/"
            )
            os.close(inner)
            self.outputs = {self.input: b"O"}
        else:
            ends = [os.pipe() for _ in range(3)]
            (given, self.input), (out, out_inner), (err, err_inner) = ends
            self.process = subprocess.Popen(
                argv, stdin=given, stdout=out_inner, stderr=err_inner, start_new_session=True, cwd="/"
            )
            for inner in (given, out_inner, err_inner):
                os.close(inner)
            self.outputs = {out: b"O", err: b"E"}
        threading.Thread(target=self.feed, daemon=True).start()
        threading.Thread(target=self.relay, daemon=True).start()

    def feed(self) -> None:
        with contextlib.suppress(OSError):  # it reads no more
            while data := self.waiting.get():
                while data:
                    data = data[os.write(self.input, data) :]
            if self.tty:
                os.write(self.input, b"\4")
        if not self.tty:
            os.close(self.input)

    def relay(self) -> None:
        open_ones = dict(self.outputs)
        while open_ones:
            for descriptor in select.select(list(open_ones), [], [])[0]:
                try:
                    data = os.read(descriptor, 1 << 15)
                except OSError:  # EIO: the terminal's last user is gone
                    data = b""
                if data:
                    self.answer(open_ones[descriptor], data)
                else:
                    del open_ones[descriptor]
                    os.close(descriptor)
        self.answer(b"X", str(self.process.wait()).encode())

    def answer(self, kind: bytes, payload: bytes) -> None:
        if not self.ended:  # else there is another session on the port by now
            self.send(kind, payload)

    def kill(self) -> None:
        self.ended = True
        if self.process.poll() is None:
            if self.stop:
                subprocess.run(self.stop, stdin=subprocess.DEVNULL, capture_output=True, check=False)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.waiting.put(b"")


class Port:
    """One virtio-serial port, opened anew for each session of the host's."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.lock = threading.Lock()
        self.descriptor = -1

    def send(self, kind: bytes, payload: bytes) -> None:
        data = HEADER.pack(kind, len(payload)) + payload
        with self.lock, contextlib.suppress(OSError):  # the host is gone
            while data:
                data = data[os.write(self.descriptor, data) :]

    def read(self, size: int) -> bytes:
        """Raises EOFError when the host hung up."""
        data = b""
        poll = select.poll()
        poll.register(self.descriptor, select.POLLIN)
        while len(data) < size:
            events = dict(poll.poll()).get(self.descriptor, 0)
            if events & select.POLLIN:
                more = os.read(self.descriptor, size - len(data))
                if not more:  # without a host it is readable, and there is nothing
                    raise EOFError
                data += more
            elif events:
                raise EOFError
        return data

    def frames(self) -> Iterator[tuple[bytes, bytes]]:
        while True:
            kind, length = HEADER.unpack(self.read(HEADER.size))
            yield kind, self.read(length)

    def session(self) -> None:
        command = None
        try:
            for kind, payload in self.frames():
                if kind == b"P":
                    if command:
                        command.kill()
                    self.send(b"P", payload)
                elif kind == b"R":
                    asked = json.loads(payload)
                    try:
                        command = Command(asked["argv"], asked["stop"], asked["tty"], self.send)
                    except OSError as error:
                        self.send(b"E", f"{error}\n".encode())
                        self.send(b"X", b"127")
                elif kind == b"I" and command:
                    command.waiting.put(payload)
        except EOFError:
            if command:
                command.kill()

    def serve(self) -> None:
        while True:
            self.descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            self.session()
            os.close(self.descriptor)  # what the host still sent is thrown away
            time.sleep(0.2)


for path in sorted(glob.glob("/dev/virtio-ports/vm.*")):
    threading.Thread(target=Port(path).serve).start()
