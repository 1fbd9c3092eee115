"""What nf_tables rules are made of: expressions, packed as netlink attributes. Source: `include/uapi/linux/netfilter/nf_tables.h`.

A rule is a tuple of expressions. Each loads something into a register and compares it there, acts, or ends with a verdict;
the next one is reached only where the comparison held. Attributes are big-endian; what is compared with metadata of the
machine, such as connection states, is in the machine's own order.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import Final

from pytest_isolate.kernel.netlink import attribute

__all__ = [
    "ACCEPT", "DROP", "FORWARD", "POSTROUTING", "Chain", "Rule", "connection_is_new", "counter", "destination", "iif",
    "masquerade", "nested", "not_translated", "number", "oif", "source",
]  # fmt: skip

Rule = tuple[bytes, ...]

FORWARD: Final = 2
POSTROUTING: Final = 4
"""Numbers of hooks (`enum nf_inet_hooks`)."""

_NESTED: Final = 0x8000
_REGISTER: Final = 1
_EQUAL, _UNEQUAL = 0, 1
_META_KEY: Final = {"nfproto": 15, "iifname": 6, "oifname": 7}
_CT_STATE, _CT_STATUS = 0, 2
_STATE_NEW: Final = 8
_STATUS_DNAT: Final = 1 << 5
_NETWORK_HEADER: Final = 1
_PROTOCOL: Final = {4: 2, 6: 10}
_NAME_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Chain:
    """A base chain, with policy accept.

    Attributes:
        kind: ``filter`` or ``nat``.
        hook: `FORWARD` or `POSTROUTING`.
        priority: lower ones come first; 0 is where filters are, 100 where source addresses are translated.
    """

    name: str
    kind: str
    hook: int
    priority: int
    rules: tuple[Rule, ...]


def nested(kind: int, *attributes: bytes) -> bytes:
    return attribute(kind | _NESTED, b"".join(attributes))


def number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">I", value & 0xFFFFFFFF))


def _expression(name: str, *attributes: bytes) -> bytes:
    return attribute(1, name.encode() + b"\0") + nested(2, *attributes)


def _compare(value: bytes, operator: int = _EQUAL) -> bytes:
    return _expression("cmp", number(1, _REGISTER), number(2, operator), nested(3, attribute(1, value)))


def _meta(key: str) -> bytes:
    return _expression("meta", number(1, _REGISTER), number(2, _META_KEY[key]))


def _interface(key: str, name: str, *, other: bool) -> Rule:
    return (_meta(key), _compare(name.encode().ljust(_NAME_BYTES, b"\0"), _UNEQUAL if other else _EQUAL))


def iif(name: str, *, other: bool = False) -> Rule:
    """The packet came in through interface `name`, or through any `other`. In postrouting since Linux 5.7."""
    return _interface("iifname", name, other=other)


def oif(name: str, *, other: bool = False) -> Rule:
    """The packet goes out through interface `name`, or through any `other`."""
    return _interface("oifname", name, other=other)


def _bits(key: int, mask: int, operator: int) -> Rule:
    """A connection's state or status, masked, compared with zero."""
    word, zero = struct.pack("=I", mask), bytes(4)
    return (
        _expression("ct", number(1, _REGISTER), number(2, key)),
        _expression(
            "bitwise", number(1, _REGISTER), number(2, _REGISTER), number(3, 4), nested(4, attribute(1, word)), nested(5, attribute(1, zero))
        ),
        _compare(zero, operator),
    )  # fmt: skip


def connection_is_new() -> Rule:
    return _bits(_CT_STATE, _STATE_NEW, _UNEQUAL)


def not_translated() -> Rule:
    """Nobody on this host changed the connection's destination, as for a published port."""
    return _bits(_CT_STATUS, _STATUS_DNAT, _EQUAL)


def source(address: str) -> Rule:
    return _address(address, {4: 12, 6: 8})


def destination(address: str) -> Rule:
    return _address(address, {4: 16, 6: 24})


def _address(address: str, offsets: dict[int, int]) -> Rule:
    packed = ipaddress.ip_address(address)
    return (
        _meta("nfproto"),
        _compare(bytes([_PROTOCOL[packed.version]])),
        _expression(
            "payload",
            number(1, _REGISTER),
            number(2, _NETWORK_HEADER),
            number(3, offsets[packed.version]),
            number(4, len(packed.packed)),
        ),
        _compare(packed.packed),
    )


def counter() -> Rule:
    """Counts what comes this far."""
    return (_expression("counter", attribute(1, bytes(8)), attribute(2, bytes(8))),)


def masquerade() -> Rule:
    """Gives the packet the address of the interface that it leaves by."""
    return (_expression("masq"),)


def _verdict(code: int) -> Rule:
    return (_expression("immediate", number(1, 0), nested(2, nested(2, number(1, code)))),)


DROP: Final = _verdict(0)
ACCEPT: Final = _verdict(1)
