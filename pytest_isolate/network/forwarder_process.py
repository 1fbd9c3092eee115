"""The forwarder seen from pytest: a child process and its channel, which the test processes inherit for a moment.

A test process sends its listening sockets over the inherited end itself, so nobody waits for them: a connection made before
the forwarder has them stays in the kernel's backlog. SEQPACKET keeps packets whole, whoever sends them.
"""

from __future__ import annotations

import os
import select
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from typing import Final

from pytest_isolate.kernel.channel import pair
from pytest_isolate.kernel.fresh_interpreter import start
from pytest_isolate.network.forwards import Forward, listen

__all__ = ["ForwarderProcess"]

_START: Final = 10.0
_CLOSE: Final = 1.0
_GOODBYE: Final = 5.0
_AT_ONCE: Final = 32
"""Sockets in a message; a channel takes 64."""


class ForwarderProcess:
    """Starts the forwarder and doesn't wait for it.

    Attributes:
        alive: as far as is known.

    Raises:
        OSError: it could not be started.
    """

    def __init__(self) -> None:
        self._channel, theirs = pair()
        self._log = os.memfd_create("pytest-isolate-forwarder")
        with theirs:
            try:
                self._process = start("pytest_isolate.network.forwarder", theirs.fileno(), self._log)
            except BaseException:
                self.close_fds()
                raise
        self._keys = count()
        self._ready = False
        self.alive = True

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def new_key(self) -> str:
        """For the forwards of one test. Waits until the forwarder serves, once: time-outs of the first test aren't to run meanwhile."""
        self.alive = self.alive and self._process.poll() is None
        if self.alive and not self._ready:
            self._ready = self.alive = self._answer("ready", True, _START)
        return str(next(self._keys))

    def serve(self, key: str, forwards: Sequence[Forward]) -> dict[Forward, str]:
        """In a test process, inside its sandbox: have `forwards` answered there.

        Returns:
            why not, for those that can't be.
        """
        refused: dict[Forward, str] = {}
        opened = []
        for forward in forwards:
            try:
                opened.append((forward, listen(forward)))
            except OSError as error:
                refused[forward] = f"can't listen there: {error.strerror}"
        for first in range(0, len(opened), _AT_ONCE):
            part = opened[first : first + _AT_ONCE]
            message = {"op": "open", "key": key, "targets": [(forward.host, forward.port) for forward, _ in part]}
            try:
                self._channel.send(message, tuple(sock.fileno() for _, sock in part))
            except OSError as error:
                refused |= {forward: f"the forwarder has ended: {error.strerror}" for forward, _ in part}
        for _, sock in opened:
            sock.close()
        return refused

    def close(self, key: str) -> None:
        """The test has ended: what it sent is passed on, then its connections are closed. Waits at most a second for that."""
        with suppress(OSError):
            self._channel.send({"op": "close", "key": key})
            self._answer("closed", key, _CLOSE)

    def _answer(self, name: str, value: object, seconds: float) -> bool:
        """Whether the message `name` came; those before it are answers that were waited for in vain."""
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        while poll.poll(seconds * 1000):
            if (received := self._channel.receive()) is None:
                self.alive = False
                return False
            if received[0].get(name) == value:
                return True
        return False

    def last_words(self) -> str:
        """What it wrote, for whoever asks why it isn't alive."""
        return os.pread(self._log, 65536, 0).decode(errors="replace").strip()

    def close_fds(self) -> None:
        """In a test process: leave the forwarder to the pytest process."""
        self._channel.close()
        os.close(self._log)

    def end(self) -> None:
        """End it, and wait for it."""
        self.close_fds()
        try:
            self._process.wait(_GOODBYE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
