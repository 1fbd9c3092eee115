"""TCP and UDP sockets of processes as the kernel tells them: by descriptor, or by inode in the tables of /proc/net.

An inode in ``/proc/PID/fd`` ties a socket to who holds it; the tables give its addresses. A listing covers one network
namespace, that of the process whose /proc/PID/net is read. Nothing that looks raises: what can't be read isn't there.
"""

from __future__ import annotations

import ipaddress
import os
import stat
import struct
import sys
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from socket import (
    AF_INET,
    AF_INET6,
    IPPROTO_IPV6,
    IPPROTO_UDP,
    IPV6_V6ONLY,
    SO_ACCEPTCONN,
    SO_REUSEADDR,
    SOCK_DGRAM,
    SOCK_STREAM,
    SOL_SOCKET,
    socket,
)
from typing import Final

from pytest_isolate.model.net import Transport, bracketed

__all__ = [
    "InetSocket",
    "descendants",
    "in_tables",
    "inodes",
    "listening",
    "of_descriptor",
    "plain",
    "same_network",
    "socket_inode",
]

_TABLES: Final[tuple[tuple[str, Transport], ...]] = (("tcp", "tcp"), ("tcp6", "tcp"), ("udp", "udp"), ("udp6", "udp"))
_LISTEN: Final = "0A"
_UNCONNECTED: Final = "07"


@dataclass(frozen=True, slots=True)
class InetSocket:
    """One socket.

    Attributes:
        inode: its number, the same for all descriptors of it.
        host: local address; an IPv4 address that an IPv6 socket uses is given as IPv4.
        remote: address and port of the peer as text; empty if there is none.
        serves: a TCP socket that listens, or a UDP one that is bound and not connected.
        v6only: of IPv6; None where it isn't known.
    """

    inode: int
    kind: Transport
    host: str
    port: int
    remote: str = ""
    serves: bool = False
    v6only: bool | None = None

    @property
    def local(self) -> str:
        """Address and port as text."""
        return _joined(self.host, self.port)


def socket_inode(link: str) -> int | None:
    """From ``socket:[INODE]``, as /proc/PID/fd shows it."""
    return int(link[8:-1]) if link.startswith("socket:[") else None


def of_descriptor(fd: int) -> InetSocket | None:
    """The socket behind a descriptor of this process, if it is one of TCP or UDP."""
    try:
        status = os.fstat(fd)
        if not stat.S_ISSOCK(status.st_mode):
            return None
        # A socket object closes its descriptor, and takes only one that is a socket.
        with socket(fileno=os.dup(fd)) as sock:
            return _described(sock, status.st_ino)
    except OSError:
        return None


def _described(sock: socket, inode: int) -> InetSocket | None:
    kind: Transport
    if sock.family not in (AF_INET, AF_INET6):
        return None
    host, port = sock.getsockname()[:2]
    if sock.type == SOCK_STREAM:
        kind, serves = "tcp", bool(sock.getsockopt(SOL_SOCKET, SO_ACCEPTCONN))
    elif sock.type == SOCK_DGRAM and sock.proto == IPPROTO_UDP:
        kind, serves = "udp", port != 0
    else:
        return None
    remote = _peer(sock)
    v6only = bool(sock.getsockopt(IPPROTO_IPV6, IPV6_V6ONLY)) if sock.family == AF_INET6 else None
    return InetSocket(inode, kind, plain(host), port, remote, serves and not remote, v6only)


def _peer(sock: socket) -> str:
    try:
        host, port = sock.getpeername()[:2]
    except OSError:
        return ""
    return _joined(plain(host), port)


def in_tables(
    wanted: Collection[int] | None = None, process: int | str = "self", transport: Transport | None = None
) -> list[InetSocket]:
    """The sockets of a process's network namespace, or those of them with the inodes `wanted`, or of one `transport`."""
    return [
        sock
        for table, kind in _TABLES
        if transport is None or transport == kind
        for sock in _rows(f"/proc/{process}/net/{table}", kind, wanted)
    ]


def listening(host: str, port: int, transport: Transport, backlog: int) -> socket:
    """A socket of the calling thread's network namespace that serves an address, IPv6 alone where that is IPv6's. Raises OSError."""
    family = AF_INET6 if ":" in host else AF_INET
    made = socket(family, SOCK_STREAM if transport == "tcp" else SOCK_DGRAM)
    try:
        if family == AF_INET6:
            made.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 1)
        if transport == "tcp":
            made.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        made.bind((host, port))
        if transport == "tcp":
            made.listen(backlog)
    except BaseException:
        made.close()
        raise
    return made


def _rows(path: str, kind: Transport, wanted: Collection[int] | None) -> Iterator[InetSocket]:
    for line in _text(path).splitlines()[1:]:
        columns = line.split()
        if len(columns) < 10 or not (inode := int(columns[9])) or (wanted is not None and inode not in wanted):
            continue
        local, remote, state = columns[1:4]
        host, port = _address(local)
        peer = "" if remote.endswith(":0000") else _joined(*_address(remote))
        serves = state == _LISTEN if kind == "tcp" else state == _UNCONNECTED and port != 0
        yield InetSocket(inode, kind, host, port, peer, serves)


def inodes(process: int | str) -> set[int]:
    """Of the sockets that a process holds; empty for one of another user."""
    directory = f"/proc/{process}/fd"
    found = set()
    for name in _listing(directory):
        try:
            inode = socket_inode(os.readlink(f"{directory}/{name}"))
        except OSError:
            continue
        if inode is not None:
            found.add(inode)
    return found


def same_network(pid: int) -> bool:
    """Whether a process is in this one's network namespace."""
    try:
        return os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/self/ns/net")
    except OSError:
        return False


def descendants(pids: Iterable[int]) -> set[int]:
    """`pids` and their children's children (CONFIG_PROC_CHILDREN), as long as no process between them has ended."""
    found: set[int] = set()
    waiting = list(pids)
    while waiting:
        pid = waiting.pop()
        if pid in found:
            continue
        found.add(pid)
        for tid in _listing(f"/proc/{pid}/task"):
            waiting += map(int, _text(f"/proc/{pid}/task/{tid}/children").split())
    return found


def _listing(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read().decode("ascii", "replace")
    except OSError:
        return ""


def _address(text: str) -> tuple[str, int]:
    """``0100007F:1F90`` is 127.0.0.1 and 8000: the kernel prints each 32-bit word in the machine's byte order."""
    host, _, port = text.partition(":")
    words = struct.unpack(f">{len(host) // 8}I", bytes.fromhex(host))
    packed = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    return plain(str(ipaddress.ip_address(packed))), int(port, 16)


def plain(host: str) -> str:
    """An address as text; an IPv4 one in IPv6's form as IPv4."""
    address = ipaddress.ip_address(host)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _joined(host: str, port: int) -> str:
    return f"{bracketed(host)}:{port}"
