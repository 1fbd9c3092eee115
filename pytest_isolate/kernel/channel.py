"""Messages between our processes: one JSON document a packet, file descriptors beside it.

A SOCK_SEQPACKET socket keeps packets whole and in order. A peer that died shows as end of file, or as
ECONNRESET when it left packets unread; both are `None` here.
"""

from __future__ import annotations

import json
import socket
from typing import Any, Final

__all__ = ["Channel", "pair"]

_LARGEST: Final = 1 << 18
_MOST_FDS: Final = 64


class Channel:
    """One end of the socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        """Raises OSError (EPIPE, ECONNRESET) when the peer is gone."""
        data = json.dumps(message, separators=(",", ":")).encode()
        if fds:
            socket.send_fds(self._socket, [data], list(fds))
        else:
            self._socket.send(data)

    def receive(self) -> tuple[dict[str, Any], list[int]] | None:
        """The next message and its fds (close-on-exec), blocking; None when the peer is gone."""
        try:
            data, fds, _flags, _address = socket.recv_fds(self._socket, _LARGEST, _MOST_FDS, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            return None
        if not data:
            return None
        return json.loads(data), fds

    def close(self) -> None:
        self._socket.close()


def pair() -> tuple[Channel, socket.socket]:
    """A channel and the socket of its other end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for sock in (ours, theirs):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LARGEST)
    return Channel(ours), theirs
