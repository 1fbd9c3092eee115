"""A look into a sandbox from outside, through the root directory of its init (``/proc/PID/root``).

The `proc` found there belongs to the sandbox's PID namespace, so it lists exactly what runs inside, under
the pids that the inside knows. Reading needs what joining needs (ptrace(2), PTRACE_MODE_READ).
"""

from __future__ import annotations

import os
from contextlib import suppress

from pytest_isolate.model.usage import ProcessInfo

__all__ = ["interface_traffic", "processes", "refused_packets"]


def processes(init: int) -> list[ProcessInfo]:
    """What runs in the sandbox of `init`, `init` itself and zombies left out; empty if it is gone."""
    proc = f"/proc/{init}/root/proc"
    found = []
    with suppress(OSError):
        for pid in sorted(int(name) for name in os.listdir(proc) if name.isdigit() and name != "1"):
            if info := _process(proc, pid):
                found.append(info)
    return found


def _process(proc: str, pid: int) -> ProcessInfo | None:
    try:
        stat = _read(f"{proc}/{pid}/stat")
        command = _read(f"{proc}/{pid}/cmdline")
    except OSError:
        return None
    name, _, rest = stat.partition(b"(")[2].rpartition(b")")
    if rest.split()[:1] == [b"Z"]:
        return None
    words = command.rstrip(b"\0").replace(b"\0", b" ")
    return ProcessInfo(pid, name.decode(errors="replace"), words.decode(errors="replace"))


def refused_packets(init: int) -> int:
    """Packets of the sandbox's network namespace that found no route, IPv4 and IPv6; 0 if it is gone."""
    total = 0
    with suppress(OSError, ValueError):
        for line in _read(f"/proc/{init}/net/snmp6").splitlines():
            name, _, value = line.partition(b" ")
            if name.strip() == b"Ip6OutNoRoutes":
                total += int(value)
    with suppress(OSError, ValueError):
        titles, values = (line.split() for line in _read(f"/proc/{init}/net/snmp").splitlines()[:2])
        total += int(values[titles.index(b"OutNoRoutes")])
    return total


def interface_traffic(init: int, interface: str) -> dict[str, int] | None:
    """The counters of an interface of the sandbox, named as in `Usage`; None if it is gone. Source: proc_pid_net(5), dev."""
    with suppress(OSError, ValueError):
        for line in _read(f"/proc/{init}/net/dev").splitlines()[2:]:
            name, _, counters = line.partition(b":")
            if name.strip() == interface.encode():
                figures = list(map(int, counters.split()))
                return {
                    "net_rx_bytes": figures[0],
                    "net_rx_packets": figures[1],
                    "net_tx_bytes": figures[8],
                    "net_tx_packets": figures[9],
                    "net_dropped_packets": figures[3] + figures[11],
                }
    return None


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 65536)
    finally:
        os.close(fd)
