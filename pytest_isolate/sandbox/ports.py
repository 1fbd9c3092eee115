"""Which ports something in a sandbox listens on, read from the tables of its network namespace (proc(5), /proc/PID/net).

Nobody is connected to for it: a server that counts its connections, or takes one only, sees none.
"""

from __future__ import annotations

from typing import Final, Literal

from pytest_isolate.kernel.cgroup_files import text

__all__ = ["Protocol", "listens"]

Protocol = Literal["tcp", "udp"]

_WAITING: Final = {"tcp": "0A", "udp": "07"}
"""TCP_LISTEN; UDP shows TCP_CLOSE for a socket that is bound and connected to nobody (include/net/tcp_states.h)."""


def listens(init: int, port: int, protocol: Protocol = "tcp") -> bool:
    """Whether a socket waits on `port`, at whatever address, in the network namespace of `init`; False if that is gone."""
    state = _WAITING[protocol]
    for table in (protocol, f"{protocol}6"):
        for line in (text(f"/proc/{init}/net/{table}") or "").splitlines()[1:]:
            columns = line.split()
            if len(columns) > 3 and columns[3] == state and int(columns[1].rpartition(":")[2], 16) == port:
                return True
    return False
