"""Which addresses of the host's loopback are forwarded into a sandbox, and the listening sockets there.

A forward has the same address and port on both sides. What listens on the wildcard address is forwarded from the
loopback address of its family alone.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from dataclasses import dataclass
from socket import socket
from typing import Final

from pytest_isolate.kernel.inet_sockets import InetSocket, listening
from pytest_isolate.model.net import Transport, bracketed

__all__ = ["Forward", "forwards_of", "listen"]

_BACKLOG: Final = 4096
_IPV4: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True, order=True)
class Forward:
    """One address, inside and on the host."""

    kind: Transport
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.kind.upper()} {bracketed(self.host)}:{self.port}"


def forwards_of(server: InetSocket, others: Collection[InetSocket] = ()) -> list[Forward]:
    """What a server is reached by on the loopback; empty for one that serves nothing there.

    Args:
        others: sockets of the same network namespace. Where it isn't known whether an IPv6 socket answers IPv4 as well
            (ipv6(7) IPV6_V6ONLY), it doesn't if one of them serves the same port there.
    """
    if not server.serves:
        return []
    address = ipaddress.ip_address(server.host)
    if address.is_loopback:
        return [Forward(server.kind, server.host, server.port)]
    if not address.is_unspecified:
        return []
    if address.version == 4:
        return [Forward(server.kind, _IPV4, server.port)]
    found = [Forward(server.kind, "::1", server.port)]
    taken = any(
        (other.kind, other.port) == (server.kind, server.port) and other.serves and other.host in (_IPV4, "0.0.0.0")  # noqa: S104 - compared
        for other in others
    )
    if server.v6only is False or (server.v6only is None and not taken):
        found.append(Forward(server.kind, _IPV4, server.port))
    return found


def listen(forward: Forward) -> socket:
    """A socket of the calling thread's network namespace that takes what `forward` forwards. Raises OSError."""
    return listening(forward.host, forward.port, forward.kind, _BACKLOG)
