"""Which ports something in a sandbox listens on, read from the tables of its network namespace (proc(5), /proc/PID/net).

Nobody is connected to for it: a server that counts its connections, or takes one only, sees none.
"""

from __future__ import annotations

from pytest_isolate.kernel.inet_sockets import in_tables
from pytest_isolate.model.net import Transport

__all__ = ["listens"]


def listens(init: int, port: int, protocol: Transport = "tcp") -> bool:
    """Whether a socket waits on `port`, at whatever address, in the network namespace of `init`; False if that is gone."""
    return any(sock.serves and sock.port == port for sock in in_tables(process=init, transport=protocol))
