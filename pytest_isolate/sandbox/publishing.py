"""Host ports of published ports: bound by the calling process itself, as its user and in its network, so that nobody can come
between the choice of a port and its use. Who serves them is the hub.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from pytest_isolate.kernel import inet_sockets
from pytest_isolate.model.errors import SetupError
from pytest_isolate.model.net import Publish

__all__ = ["Listener", "listening"]

Listener = tuple[Publish, socket.socket]

_PATIENCE: Final = 2.0
"""Seconds for the hub to close the port of the sandbox before, which it does by itself."""
_PAUSE: Final = 0.01
_BACKLOG: Final = 128

_HINTS: Final = {
    errno.EADDRINUSE: 'another program listens there: publish another host port, or let the kernel choose one (publish=["{port}"])',
    errno.EACCES: "ports below net.ipv4.ip_unprivileged_port_start (1024) are root's: publish a higher host port",
    errno.EADDRNOTAVAIL: "the host has no such address: see ip address",
}


@contextmanager
def listening(wanted: Sequence[Publish]) -> Iterator[list[Listener]]:
    """A socket for each published port, with the host port that it has; closed at the end of the block, when others have copies.

    Raises:
        SetupError: a port can't be bound.
    """
    made: list[Listener] = []
    try:
        for entry in wanted:
            made.append(_bound(entry))
        yield made
    finally:
        for _, listener in made:
            listener.close()


def _bound(entry: Publish) -> Listener:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            listener = inet_sockets.listening(entry.host_ip, entry.host_port, entry.protocol, _BACKLOG)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                number = error.errno or 0
                raise SetupError("publish", str(entry), number, _HINTS.get(number, "").format(port=entry.port)) from None
            time.sleep(_PAUSE)
        else:
            return replace(entry, host_port=listener.getsockname()[1]), listener
