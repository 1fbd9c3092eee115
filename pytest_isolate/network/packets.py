"""The packets that tell who reached whom: which ones the kernel hands over, and what they say.

A packet socket's classic BPF filter (bpf(4) of the BSDs; Documentation/networking/filter.rst) runs in the kernel for each packet,
on its network header, and answers how many bytes of it are wanted: none of nearly all. A segment that has the kernel's full size,
64 KiB, is one packet there, so that a fast stream costs one short program per 64 KiB.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final, Literal

from pytest_isolate.model.usage import Contact

__all__ = ["CONNECTIONS", "DATAGRAMS", "Seen", "filtering", "read"]

_TCP: Final = socket.IPPROTO_TCP
_UDP: Final = socket.IPPROTO_UDP
_ICMP: Final = socket.IPPROTO_ICMP
_ICMPV6: Final = socket.IPPROTO_ICMPV6
_PROTOCOLS: Final = {_TCP: "tcp", _UDP: "udp"}

_SYN: Final = 0x02
_RST: Final = 0x04
_ACK: Final = 0x10

_UNREACHABLE: Final = 3
"""ICMP, RFC 792. Of its codes 4 is no refusal but asks for smaller packets."""

_TOO_BIG: Final = 4
_UNREACHABLE_V6: Final = 1
"""ICMPv6, RFC 4443, which has another type for that."""

_SNAP: Final = 160
"""Bytes: two IPv4 headers with options, an ICMP header and the ports."""

# Instructions: linux/bpf_common.h.
_LOAD_BYTE: Final = 0x30
_LOAD_HALF: Final = 0x28
_LOAD_BYTE_X: Final = 0x50
_LOAD_X_HEADER_LENGTH: Final = 0xB1
_AND: Final = 0x54
_JUMP_EQUAL: Final = 0x15
_JUMP_BITS: Final = 0x45
_RETURN: Final = 0x06

Step = tuple[int, int] | tuple[int, int, str, str] | str
"""An instruction and its operand; for a jump the labels where it goes if it is true and if not, empty: on; or a label."""


def _program(steps: Sequence[Step]) -> tuple[bytes, ...]:
    """Machine code, in which jumps are counted from the next instruction."""
    labels: dict[str, int] = {}
    code: list[tuple[int, int, str, str]] = []
    for step in steps:
        if isinstance(step, str):
            labels[step] = len(code)
        elif len(step) == 2:
            code.append((*step, "", ""))
        else:
            code.append(step)

    def distance(place: int, label: str) -> int:
        return labels[label] - place - 1 if label else 0

    return tuple(
        struct.pack("=HBBI", operation, distance(place, true), distance(place, false), operand)
        for place, (operation, operand, true, false) in enumerate(code)
    )


_BEGIN: Final[tuple[Step, ...]] = (
    (_LOAD_BYTE, 0),
    (_AND, 0xF0),
    (_JUMP_EQUAL, 0x40, "ipv4", ""),
    (_JUMP_EQUAL, 0x60, "ipv6", "drop"),
)
_END: Final[tuple[Step, ...]] = ("take", (_RETURN, _SNAP), "drop", (_RETURN, 0))

# A fragment but the first has no ports: its offset, of the field at 6, isn't 0.
CONNECTIONS: Final = _program((
    *_BEGIN,
    "ipv4",
    (_LOAD_HALF, 6),
    (_JUMP_BITS, 0x1FFF, "drop", ""),
    (_LOAD_X_HEADER_LENGTH, 0),
    (_LOAD_BYTE, 9),
    (_JUMP_EQUAL, _TCP, "tcp", ""),
    (_JUMP_EQUAL, _ICMP, "", "drop"),
    (_LOAD_BYTE_X, 0),
    (_JUMP_EQUAL, _UNREACHABLE, "take", "drop"),
    "tcp",
    (_LOAD_BYTE_X, 13),
    (_JUMP_BITS, _SYN | _RST, "take", "drop"),
    "ipv6",
    (_LOAD_BYTE, 6),
    (_JUMP_EQUAL, _TCP, "tcp6", ""),
    (_JUMP_EQUAL, _ICMPV6, "", "drop"),
    (_LOAD_BYTE, 40),
    (_JUMP_EQUAL, _UNREACHABLE_V6, "take", "drop"),
    "tcp6",
    (_LOAD_BYTE, 40 + 13),
    (_JUMP_BITS, _SYN | _RST, "take", "drop"),
    *_END,
))  # fmt: skip
"""TCP's SYN and RST, ICMP's and ICMPv6's refusals."""

DATAGRAMS: Final = _program((
    *_BEGIN,
    "ipv4",
    (_LOAD_HALF, 6),
    (_JUMP_BITS, 0x1FFF, "drop", ""),
    (_LOAD_BYTE, 9),
    (_JUMP_EQUAL, _UDP, "take", "drop"),
    "ipv6",
    (_LOAD_BYTE, 6),
    (_JUMP_EQUAL, _UDP, "take", "drop"),
    *_END,
))  # fmt: skip
"""Every UDP packet."""


class filtering:  # noqa: N801 - reads as the function that it could be, if the memory that it points to stayed
    """``struct sock_fprog`` for SO_ATTACH_FILTER, valid inside of ``with``."""

    def __init__(self, program: Sequence[bytes]) -> None:
        self._program = program

    def __enter__(self) -> bytes:
        self._code = ctypes.create_string_buffer(b"".join(self._program))
        return struct.pack("HL", len(self._program), ctypes.addressof(self._code))

    def __exit__(self, *_exc: object) -> None:
        del self._code


@dataclass(frozen=True, slots=True)
class Seen:
    """What one packet says.

    Attributes:
        kind: ``asks`` for a connection, ``accepts`` or ``refuses`` one, ``resets`` one that there may be; ``sends`` a datagram.
        local: the address that wanted the contact.
        local_port: of a datagram; 0 otherwise.
        remote: with whom.
    """

    kind: Literal["asks", "accepts", "refuses", "resets", "sends"]
    local: str
    local_port: int
    remote: Contact


def read(packet: bytes) -> Seen | None:
    """A packet from its network header on, which may be cut short; None for one that says nothing. Raises nothing."""
    try:
        return _read(packet)
    except (struct.error, IndexError, ValueError):
        return None


def _read(packet: bytes) -> Seen | None:
    protocol, source, target, rest = _network(packet)
    if protocol in (_ICMP, _ICMPV6):
        refusal = (_ICMP, _UNREACHABLE) if protocol == _ICMP else (_ICMPV6, _UNREACHABLE_V6)
        if (protocol, rest[0]) != refusal or (protocol == _ICMP and rest[1] == _TOO_BIG):
            return None
        # What was refused follows the header of 8 bytes, with at least 8 bytes of its own beyond the network header.
        protocol, source, target, rest = _network(rest[8:])
        return Seen("refuses", source, 0, (_PROTOCOLS[protocol], target, _ports(rest)[1])) if protocol in _PROTOCOLS else None
    source_port, target_port = _ports(rest)
    if protocol == _UDP:
        return Seen("sends", source, source_port, ("udp", target, target_port))
    if protocol != _TCP:
        return None
    flags = rest[13]
    if flags & _RST:
        # In answer to a SYN it has the sequence number 0 and acknowledges (RFC 9293, 3.5.2); others end what was connected.
        refuses = flags & _ACK and rest[4:8] == bytes(4)
        return Seen("refuses" if refuses else "resets", target, 0, ("tcp", source, source_port))
    if flags & _SYN and flags & _ACK:
        return Seen("accepts", target, 0, ("tcp", source, source_port))
    return Seen("asks", source, 0, ("tcp", target, target_port)) if flags & _SYN else None


def _network(packet: bytes) -> tuple[int, str, str, bytes]:
    """Protocol, source, destination, and what follows the header."""
    if packet[0] >> 4 == 4:
        length = (packet[0] & 0x0F) * 4
        return packet[9], str(ip_address(packet[12:16])), str(ip_address(packet[16:20])), packet[length:]
    if packet[0] >> 4 != 6:
        raise ValueError("neither IPv4 nor IPv6")
    return packet[6], str(ip_address(packet[8:24])), str(ip_address(packet[24:40])), packet[40:]


def _ports(segment: bytes) -> tuple[int, int]:
    source, target = struct.unpack_from("!2H", segment)
    return source, target
