"""rtnetlink(7) for what is done once per sandbox: a veth pair, an address, a route.

pyroute2 does everything else in networks. Here it would cost more than the kernel's own work: each of its calls is a run of
an event loop, and several of them are one `send` here. Requests are made by the functions of this module as bytes, and carried
out in order by `Route.do`. Sources: linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h, linux/veth.h.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address
from types import TracebackType
from typing import Final, Self

from pytest_isolate.kernel.netlink import ACK, CREATE, ERROR, EXCL, REQUEST, attribute, message, messages, raise_refusal

__all__ = ["Request", "Route", "add_address", "add_default_route", "add_veth", "set_link"]

_RTM_NEWLINK: Final = 16
_RTM_SETLINK: Final = 19
_RTM_NEWADDR: Final = 20
_RTM_NEWROUTE: Final = 24

_IFF_UP: Final = 1
_IFLA_ADDRESS: Final = 1
_IFLA_IFNAME: Final = 3
_IFLA_MTU: Final = 4
_IFLA_MASTER: Final = 10
_IFLA_LINKINFO: Final = 18
_IFLA_AF_SPEC: Final = 26
_IFLA_NET_NS_FD: Final = 28
_IFLA_INFO_KIND: Final = 1
_IFLA_INFO_DATA: Final = 2
_IFLA_INET6_ADDR_GEN_MODE: Final = 8
_IN6_ADDR_GEN_MODE_NONE: Final = 1
_VETH_INFO_PEER: Final = 1
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_IFA_F_NODAD: Final = 0x02
_RTA_OIF: Final = 4
_RTA_GATEWAY: Final = 5
_RT_TABLE_MAIN: Final = 254
_RTPROT_STATIC: Final = 4
_RTN_UNICAST: Final = 1

Request = tuple[int, int, bytes]
"""Message type, flags, body."""


def add_veth(index: int, name: str, master: int, mtu: int, *, peer: str, peer_index: int, namespace: int, mac: str) -> Request:
    """A pair: one end, up, at the bridge `master` as interface `index`; the other, down, in the network namespace of fd `namespace`.

    Args:
        mtu: of both ends, in bytes.
        peer, peer_index, mac: name, index and hardware address of the other end.
    """
    far = _link(peer_index) + _string(_IFLA_IFNAME, peer) + _word(_IFLA_NET_NS_FD, namespace) + _word(_IFLA_MTU, mtu)
    far += attribute(_IFLA_ADDRESS, bytes.fromhex(mac.replace(":", "")))
    data = attribute(_IFLA_INFO_DATA, attribute(_VETH_INFO_PEER, far))
    body = _link(index, _IFF_UP) + _string(_IFLA_IFNAME, name) + _word(_IFLA_MTU, mtu) + _word(_IFLA_MASTER, master)
    body += attribute(_IFLA_LINKINFO, _string(_IFLA_INFO_KIND, "veth") + data)
    return _RTM_NEWLINK, CREATE | EXCL, body


def set_link(index: int, *, up: bool, link_local: bool = True) -> Request:
    """Bring an interface up or down.

    Args:
        link_local: False, when bringing it up: without an IPv6 address of its own making, and the packets that announce it.
    """
    body = _link(index, _IFF_UP if up else 0, _IFF_UP)
    if not link_local:
        # The kernel takes AF_SPEC after the flags, and makes the address with them: so this belongs in a request before.
        mode = attribute(_IFLA_INET6_ADDR_GEN_MODE, bytes([_IN6_ADDR_GEN_MODE_NONE]))
        body = _link(index) + attribute(_IFLA_AF_SPEC, attribute(socket.AF_INET6, mode))
    return _RTM_SETLINK, 0, body


def add_address(index: int, address: str, prefix: int) -> Request:
    """An IPv4 or IPv6 address; IPv6 without the second of duplicate detection: who hands addresses out knows that it is unique."""
    ip = ip_address(address)
    family, flags = (socket.AF_INET, 0) if ip.version == 4 else (socket.AF_INET6, _IFA_F_NODAD)
    body = struct.pack("=BBBBi", family, prefix, flags, 0, index)
    return _RTM_NEWADDR, CREATE | EXCL, body + attribute(_IFA_LOCAL, ip.packed) + attribute(_IFA_ADDRESS, ip.packed)


def add_default_route(index: int, gateway: str) -> Request:
    """The default route of the gateway's family, through interface `index`."""
    ip = ip_address(gateway)
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    body = struct.pack("=BBBBBBBBI", family, 0, 0, 0, _RT_TABLE_MAIN, _RTPROT_STATIC, 0, _RTN_UNICAST, 0)
    return _RTM_NEWROUTE, CREATE | EXCL, body + attribute(_RTA_GATEWAY, ip.packed) + _word(_RTA_OIF, index)


def _link(index: int, flags: int = 0, change: int | None = None) -> bytes:
    return struct.pack("=BBHiII", socket.AF_UNSPEC, 0, 0, index, flags, flags if change is None else change)


def _word(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def _string(kind: int, text: str) -> bytes:
    return attribute(kind, text.encode() + b"\0")


class Route:
    """A socket of the network namespace that the calling thread is in when it is made. Raises OSError."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def do(self, *requests: Request) -> None:
        """Carry out all requests, in order, in one go; what follows a refused one is tried all the same.

        Raises:
            OSError: what the kernel answered to the first that it refused.
        """
        first = self._sequence + 1
        self._sequence += len(requests)
        numbered = enumerate(requests, first)
        self._socket.send(
            b"".join(message(kind, REQUEST | ACK | flags, number, body) for number, (kind, flags, body) in numbered)
        )
        answers: list[bytes] = []
        while len(answers) < len(requests):
            packet = self._socket.recv(65536)
            answers += [told.body for told in messages(packet) if told.kind == ERROR and told.sequence >= first]
        for answer in answers:
            raise_refusal(answer)
