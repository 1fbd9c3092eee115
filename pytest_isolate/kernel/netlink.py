"""The form of netlink(7) messages and attributes, for those families that are spoken without a library. Source: linux/netlink.h."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

__all__ = [
    "ACK", "APPEND", "CREATE", "DONE", "DUMP", "ERROR", "EXCL", "REQUEST", "Message", "attribute", "attributes", "message", "messages",
    "raise_refusal",
]  # fmt: skip

REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
EXCL, CREATE, APPEND = 0x200, 0x400, 0x800
"""Flags of requests."""

ERROR, DONE = 2, 3
"""Types of messages that every family has."""

_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_TYPE: Final = 0x3FFF
"""Of an attribute; the two bits above say that it is nested, or in network byte order."""


class Message(NamedTuple):
    """One that was received."""

    kind: int
    sequence: int
    body: bytes


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """To the kernel."""
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, sequence, 0) + body


def messages(packet: bytes) -> Iterator[Message]:
    """Those of one packet."""
    while len(packet) >= _HEADER.size:
        length, kind, _flags, sequence, _port = _HEADER.unpack_from(packet)
        yield Message(kind, sequence, packet[_HEADER.size : length])
        packet = packet[_aligned(max(length, _HEADER.size)) :]


def raise_refusal(body: bytes) -> None:
    """What the body of a message of type `ERROR`, or `DONE`, says. Raises OSError, unless it acknowledges."""
    if len(body) >= 4 and (number := -struct.unpack_from("=i", body)[0]):
        raise OSError(number, os.strerror(number))


def attribute(kind: int, payload: bytes) -> bytes:
    """`struct nlattr` with its payload, padded to four bytes."""
    size = _ATTRIBUTE.size + len(payload)
    return _ATTRIBUTE.pack(size, kind) + payload + bytes(_aligned(size) - size)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and payload of each."""
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        yield kind & _TYPE, data[_ATTRIBUTE.size : length]
        data = data[_aligned(max(length, _ATTRIBUTE.size)) :]


def _aligned(length: int) -> int:
    return (length + 3) & ~3
