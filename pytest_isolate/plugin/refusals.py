"""Which addresses a test tried to reach from a network that leads nowhere.

In a sandbox whose network mode blocks, the kernel answers ENETUNREACH and the resolver “temporary failure in
name resolution”: neither names the address. An audit hook (PEP 578) in the test process sees the argument of
each connect, send and name look-up before the kernel does. It can't be removed, so it is installed in the
child only; it decides nothing, never raises, and costs other events one set look-up.

The addresses go to a `Board`. Attempts of other programs are seen by the kernel's counter alone (`Events.refused_packets`).
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import sys
from collections.abc import Callable
from typing import Any, Final, Self

from pytest_isolate.model.net import bracketed
from pytest_isolate.model.spec import Spec
from pytest_isolate.plugin.board import Board

__all__ = ["Refusals", "blocks"]

TITLE: Final = "isolate: network refused"
_SIZE: Final = 1 << 14
_MOST_TEXT: Final = 200
_MOST_LISTED: Final = 20
_MOST_SEEN: Final = 1000
_OWN_NAMES: Final = frozenset({"localhost", "ip6-localhost", "0.0.0.0", "::", "::1"})  # noqa: S104 - nothing is bound here
_EVENTS: Final = frozenset(
    {
        "socket.connect",
        "socket.sendto",
        "socket.sendmsg",
        "socket.getaddrinfo",
        "socket.gethostbyname",
        "socket.gethostbyaddr",
    }
)


def blocks(spec: Spec) -> bool:
    """Whether the spec's network mode leads nowhere."""
    return spec.net.blocks


class Refusals:
    """The attempts of one test after the other, on a board that test processes write to."""

    def __init__(self) -> None:
        self._board = Board(_SIZE, _MOST_TEXT)

    def close(self) -> None:
        self._board.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def clear(self) -> None:
        """In the parent, before each fork."""
        self._board.clear()

    def install(self) -> None:
        """In the child, where `blocks(spec)`: from now on attempts are noted."""
        with contextlib.suppress(Exception):  # another audit hook may refuse ours by raising: then it has its way
            sys.addaudithook(_hook(self))

    def note(self, line: str) -> None:
        """One attempt."""
        self._board.note(line)

    def collected(self) -> list[str]:
        """In the parent: each attempt once, in the order of first attempts."""
        return self._board.collected()

    def section(self, spec: Spec, refused_packets: int = 0) -> tuple[str, str] | None:
        """Title and text for a failing test's report; None if nothing was refused.

        Args:
            refused_packets: the kernel's count of packets without a route, of every process inside.
        """
        if not blocks(spec):
            return None
        attempts = self.collected()
        if not attempts and not refused_packets:
            return None
        lines = [f'net="{spec.net}" leads nowhere but to the sandbox\'s own loopback. Tried:' if attempts else ""]
        lines += [f"  {attempt}" for attempt in attempts[:_MOST_LISTED]]
        if len(attempts) > _MOST_LISTED:
            lines.append(f"  and {len(attempts) - _MOST_LISTED} more")
        if not attempts:
            times = "once" if refused_packets == 1 else f"{refused_packets} times"
            lines = [
                f'net="{spec.net}" leads nowhere: another program inside tried to reach an address {times} (the kernel keeps no list)'
            ]
        remedies = ['net="host" shares the host\'s network, net="bridge" has one of its own that leads outside']
        if any(attempt.startswith("unix ") for attempt in attempts):
            remedies.append("writable=[the socket's directory] passes a UNIX socket through")
        return TITLE, "\n".join([*lines, f"remedy: {'; '.join(remedies)}"])


def _hook(refusals: Refusals) -> Callable[[str, tuple[Any, ...]], None]:
    """The audit hook of one test process; a closure, since a `__call__` doubles the price of every event."""
    seen: set[str] = set()

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event not in _EVENTS:
            return
        # Whatever odd object a test passes as an address, it must meet the socket's own error, not ours.
        with contextlib.suppress(Exception):
            line = _line(event, args)
            if line and line not in seen and len(seen) < _MOST_SEEN:
                seen.add(line)
                refusals.note(line)

    return hook


def _line(event: str, args: tuple[Any, ...]) -> str:
    """The attempt in words; empty for one that stays inside the sandbox."""
    if event == "socket.getaddrinfo":
        host, port = _name(args[0]), args[1]
        numeric = _is_address(host)
        return "" if numeric or _stays(host) else f"name {host}" + (f" port {_name(port)}" if port else "")
    if event in ("socket.gethostbyname", "socket.gethostbyaddr"):
        host = _name(args[0])
        return "" if _stays(host) else f"name {host}"
    sock, address = args[0], args[1]
    if sock.family == socket.AF_UNIX:
        return _unix(address)
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or not isinstance(address, tuple):
        return ""  # sendmsg on a connected socket has no address; netlink and packet sockets have no peer
    host, port = _name(address[0]), address[1]
    if _stays(host):
        return ""
    kind = {socket.SOCK_STREAM: "tcp", socket.SOCK_DGRAM: "udp"}.get(sock.type, "ip")
    return f"{kind} {bracketed(host)}:{port}"


def _name(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, (bytes, bytearray)) else str(value if value is not None else "")


def _is_address(host: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError, ValueError):
            socket.inet_pton(family, host.partition("%")[0])
            return True
    return False


def _stays(host: str) -> bool:
    """Whether the host means this sandbox itself: loopback, “any” address, own name."""
    if not host or host in _OWN_NAMES:
        return True
    host = host.lower().rstrip(".").removeprefix("::ffff:")
    if host.startswith("127.") and _is_address(host):
        return True
    return host == "localhost" or host.endswith(".localhost") or host == os.uname().nodename.lower()


def _unix(address: object) -> str:
    """A socket in the file system whose listener isn't inside; abstract ones are the sandbox's own anyway."""
    path = os.fsdecode(address) if isinstance(address, (str, bytes)) else ""
    if not path or path.startswith("\0"):
        return ""
    mode = os.stat(path).st_mode
    if stat.S_ISSOCK(mode):
        name = os.path.basename(path)
        with open("/proc/self/net/unix", encoding="utf-8", errors="surrogateescape") as table:
            if any(line.rstrip("\n").endswith(name) for line in table):
                return ""
        if not _on_overlay(path):
            return ""  # passed through by a plain bind: the host's listener answers
    elif not stat.S_ISCHR(mode):  # a masked socket is /dev/null
        return ""
    return f"unix {path} (its listener is outside)"


def _on_overlay(path: str) -> bool:
    """Whether the mount that holds `path` is an overlay, through which no listener is reached."""
    path = os.path.realpath(path)
    best, fstype = "", ""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            fields, _, rest = line.partition(" - ")
            point = fields.split()[4].replace("\\040", " ")
            if len(point) >= len(best) and (path + "/").startswith(point.rstrip("/") + "/"):
                best, fstype = point, rest.split()[0]
    return fstype == "overlay"
