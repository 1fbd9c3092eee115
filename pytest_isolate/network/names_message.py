"""The wire format of DNS, as far as a name server for sandboxes takes it: queries read, answers with A, AAAA and PTR written.

What clients send is anything: a message that isn't a query of this form raises `MessageError`, and nothing else. Answers of other
servers aren't read, but for their id, flags and question: they are passed on as they are. Sources: RFC 1035 (4.1), RFC 6891 (EDNS),
RFC 2181 (9: TC).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

__all__ = [
    "AAAA", "ANY", "IN", "LEAST_UDP", "NOERROR", "NOTIMP", "NXDOMAIN", "PTR", "REFUSED", "SERVFAIL", "A", "Address", "MessageError",
    "Name", "Query", "answer", "answers", "name_of", "rcode_of", "refusal", "reverse_name", "reversed_address",
]  # fmt: skip

A: Final = 1
PTR: Final = 12
AAAA: Final = 28
_OPT: Final = 41
ANY: Final = 255
IN: Final = 1

NOERROR: Final = 0
SERVFAIL: Final = 2
NXDOMAIN: Final = 3
NOTIMP: Final = 4
REFUSED: Final = 5

LEAST_UDP: Final = 512
"""Bytes of a message that every client takes over UDP."""

_OUR_UDP: Final = 1232
"""Bytes that we would take, told with EDNS: what passes IPv6's least MTU."""

_QR: Final = 0x8000
_AA: Final = 0x0400
_TC: Final = 0x0200
_RD: Final = 0x0100
_RA: Final = 0x0080
_OPCODE: Final = 0x7800

_HEADER: Final = struct.Struct("!6H")
_QUESTION_NAME: Final = b"\xc0\x0c"
"""A pointer to where the question's name is."""

Name = tuple[bytes, ...]
"""Labels in lower case, without the root's."""

Address = IPv4Address | IPv6Address


class MessageError(ValueError):
    """The bytes are no DNS query that can be answered."""


@dataclass(frozen=True, slots=True)
class Query:
    """One question.

    Attributes:
        id: the client's.
        flags: of the header.
        name, type, klass: what is asked.
        question: its bytes, as they came.
        udp_size: of the longest answer over UDP, in bytes.
        edns: the client speaks EDNS.
        opcode: 0 for a query; others can't be answered but with NOTIMP.
    """

    id: int
    flags: int
    name: Name
    type: int
    klass: int
    question: bytes
    udp_size: int = LEAST_UDP
    edns: bool = False

    @property
    def opcode(self) -> int:
        return (self.flags & _OPCODE) >> 11

    @classmethod
    def parse(cls, data: bytes) -> Query:
        """Raises MessageError, also for a message that is itself an answer or has other than one question."""
        try:
            number, flags, questions, *records = _HEADER.unpack_from(data)
            if flags & _QR or questions != 1:
                raise MessageError("no query with one question")
            name, position = _labels(data, _HEADER.size)
            kind, klass = struct.unpack_from("!2H", data, position)
            end = position + 4
            size = _edns_size(data, end, sum(records)) if records[2] else None
        except (struct.error, IndexError):
            raise MessageError("the message ends too soon") from None
        return cls(number, flags, name, kind, klass, data[_HEADER.size : end], max(size or 0, LEAST_UDP), edns=size is not None)


def _labels(data: bytes, position: int) -> tuple[Name, int]:
    """A name without compression, of which there can be none in a first question, and where it ends."""
    found = []
    length = 0
    while size := data[position]:
        if size > 63:
            raise MessageError("a label of more than 63 bytes")
        if len(label := data[position + 1 : position + 1 + size]) < size:
            raise MessageError("the message ends in a label")
        found.append(label.lower())
        position += 1 + size
        length += 1 + size
        if length > 254:
            raise MessageError("a name of more than 255 bytes")
    return tuple(found), position + 1


def _edns_size(data: bytes, position: int, records: int) -> int | None:
    """The client's UDP size of an OPT record among what follows the question."""
    for _ in range(records):
        while size := data[position]:
            if size >= 0xC0:  # a pointer ends a name
                position += 1
                break
            position += 1 + size
        position += 1
        kind, klass, _ttl, length = struct.unpack_from("!2HIH", data, position)
        position += 10 + length
        if kind == _OPT:
            return int(klass)
    return None


def answer(
    query: Query, records: Sequence[Address | Name], *, rcode: int = NOERROR, recurse: bool, limit: int | None = None
) -> bytes:
    """An answer of our own.

    Args:
        records: addresses for A and AAAA, names for PTR.
        recurse: tell the client that other names can be asked here too.
        limit: bytes; a longer answer has no records and says that it was cut (TC). None: over TCP.
    """
    flags = _QR | _AA | (query.flags & (_RD | _OPCODE)) | (_RA if recurse else 0) | rcode
    body = b"".join(_record(record) for record in records)
    option = b"\0" + struct.pack("!2HIH", _OPT, _OUR_UDP, 0, 0) if query.edns else b""
    count = len(records)
    if limit is not None and _HEADER.size + len(query.question) + len(body) + len(option) > limit:
        flags, count, body = flags | _TC, 0, b""
    return _HEADER.pack(query.id, flags, 1, count, 0, 1 if option else 0) + query.question + body + option


def refusal(query: Query, rcode: int, *, recurse: bool) -> bytes:
    """An answer that has no records."""
    return answer(query, (), rcode=rcode, recurse=recurse)


def _record(record: Address | Name) -> bytes:
    """With a time to live of 0: a sandbox lives for one test, and its address is soon another's."""
    if isinstance(record, tuple):
        kind, data = PTR, _wire(record)
    else:
        kind, data = (A if record.version == 4 else AAAA), record.packed
    return _QUESTION_NAME + struct.pack("!2HIH", kind, IN, 0, len(data)) + data


def _wire(name: Name) -> bytes:
    return b"".join(bytes([len(label)]) + label for label in name) + b"\0"


def answers(query: Query, number: int, data: bytes) -> bool:
    """Whether `data` is an upstream's answer to the question of `query`, sent with the id `number`."""
    end = _HEADER.size + len(query.question)
    if len(data) < _HEADER.size:
        return False
    found, flags, questions, *_ = _HEADER.unpack_from(data)
    if found != number or not flags & _QR:
        return False
    # Servers that can't make anything of a query (FORMERR) leave the question out.
    return questions == 0 or data[_HEADER.size : end].lower() == query.question.lower()


def rcode_of(data: bytes) -> int:
    """Of an answer."""
    return data[3] & 0x0F


def name_of(text: str) -> Name:
    """The labels of a name as people write it. Raises ValueError for one that has no place in a message."""
    labels = tuple(label.encode("ascii") for label in text.lower().removesuffix(".").split("."))
    if not all(1 <= len(label) <= 63 for label in labels) or len(_wire(labels)) > 255:
        raise ValueError(f"{text!r} is no name for DNS")
    return labels


_IPV4_TREE: Final = (b"in-addr", b"arpa")
_IPV6_TREE: Final = (b"ip6", b"arpa")


def reverse_name(address: Address) -> Name:
    """``4.3.2.1.in-addr.arpa`` of 1.2.3.4."""
    return name_of(address.reverse_pointer)


def reversed_address(name: Name) -> Address | None:
    """The address whose `reverse_name` this is; None for any other name."""
    try:
        if name[-2:] == _IPV4_TREE and len(name) == 6:
            return IPv4Address(b".".join(reversed(name[:4])).decode("ascii"))
        if name[-2:] == _IPV6_TREE and len(name) == 34 and all(len(label) == 1 for label in name[:32]):
            return IPv6Address(bytes.fromhex(b"".join(reversed(name[:32])).decode("ascii")))
    except ValueError:
        pass
    return None
