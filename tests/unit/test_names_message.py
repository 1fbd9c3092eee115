"""DNS messages as bytes: whatever a client sends is a query or a `MessageError`, and what is written can be read by others."""

from __future__ import annotations

import contextlib
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_isolate.network.names_message import (
    NXDOMAIN,
    PTR,
    A,
    MessageError,
    Name,
    Query,
    answer,
    answers,
    name_of,
    refusal,
    reverse_name,
    reversed_address,
)
from pytest_isolate.network.names_zone import Zone

LABELS = st.binary(min_size=1, max_size=63).map(bytes.lower)
NAMES = st.lists(LABELS, max_size=3).map(tuple)
OPT = bytes.fromhex("00 0029 04d0 00000000 0000")


def wire(name: Name) -> bytes:
    return b"".join(bytes([len(label)]) + label for label in name) + b"\0"


def message(name: Name, kind: int = A, *, flags: int = 0x0100, number: int = 7, klass: int = 1, extra: bytes = b"") -> bytes:
    return struct.pack("!6H", number, flags, 1, 0, 0, 1 if extra else 0) + wire(name) + struct.pack("!2H", kind, klass) + extra


@given(st.binary(max_size=600))
def test_any_bytes_are_a_query_or_a_message_error(data: bytes) -> None:
    try:
        query = Query.parse(data)
    except MessageError:
        return
    assert data[12:].startswith(query.question)


@given(NAMES, st.integers(0, 65535), st.integers(0, 65535), st.binary(max_size=40), st.data())
def test_spoiled_queries_raise_nothing_else(name: Name, kind: int, number: int, extra: bytes, data: st.DataObject) -> None:
    good = message(name, kind, number=number, extra=OPT + extra)
    place = data.draw(st.integers(0, len(good) - 1))
    for bad in (good[:place], good[:place] + bytes([data.draw(st.integers(0, 255))]) + good[place + 1 :]):
        with contextlib.suppress(MessageError):
            Query.parse(bad)


@given(NAMES, st.integers(0, 65535), st.integers(0, 65535))
def test_queries_are_read_as_they_were_written(name: Name, kind: int, number: int) -> None:
    query = Query.parse(message(name, kind, number=number))
    assert (query.id, query.name, query.type, query.klass, query.opcode, query.edns) == (number, name, kind, 1, 0, False)
    assert Query.parse(message(name, kind, extra=OPT)).udp_size == 1232


def test_name_in_capitals_is_found_and_comes_back_as_it_was_asked() -> None:
    query = Query.parse(message((b"DB",)))
    assert query.name == (b"db",)
    assert b"\x02DB\x00" in answer(query, [IPv4Address("10.0.0.2")], recurse=True)


def test_answer_longer_than_the_client_takes_is_cut_and_says_so() -> None:
    query = Query.parse(message((b"db",)))
    addresses = [IPv4Address(number) for number in range(40)]
    whole, cut = answer(query, addresses, recurse=True), answer(query, addresses, recurse=True, limit=512)
    assert len(whole) > 512
    assert (whole[2] & 2, whole[7]) == (0, 40)
    assert (cut[2] & 2, cut[7], len(cut)) == (2, 0, 12 + len(query.question))
    edns = Query.parse(message((b"db",), extra=OPT))
    assert answer(edns, addresses, recurse=True, limit=edns.udp_size)[7] == 40


@pytest.mark.parametrize("text", ["1.2.3.4", "fd00:99::7", "255.255.255.255", "::"])
def test_reverse_names_are_those_of_their_addresses(text: str) -> None:
    assert reversed_address(reverse_name(ip_address(text))) == ip_address(text)


@given(NAMES)
def test_reverse_name_of_anything_raises_nothing(name: Name) -> None:
    for tree in ((b"in-addr", b"arpa"), (b"ip6", b"arpa")):
        reversed_address((*name, *tree))
        reversed_address((*([name[0]] * 32 if name else []), *tree))


def test_only_the_answer_to_the_question_with_its_id_counts() -> None:
    query = Query.parse(message((b"host", b"test")))
    good = struct.pack("!H", 99) + refusal(query, NXDOMAIN, recurse=True)[2:]
    other = struct.pack("!H", 99) + refusal(Query.parse(message((b"evil", b"test"))), NXDOMAIN, recurse=True)[2:]
    assert answers(query, 99, good)
    assert answers(query, 99, good.replace(b"host", b"HOST"))
    assert not answers(query, 98, good)
    assert not answers(query, 99, other)
    assert not answers(query, 99, message((b"host", b"test"), number=99))  # a question
    assert not answers(query, 99, good[:11])


@pytest.mark.parametrize("text", ["", ".", "a..b", "a" * 64, "ä", ".".join(["a" * 60] * 5)])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        name_of(text)


def asked(zone: Zone, name: str, kind: int = A) -> tuple[int, int] | None:
    """rcode and number of answers; None: others are asked."""
    found = zone.answer(Query.parse(message(name_of(name), kind)), None)
    return None if found is None else (found[3] & 15, found[7])


def zone(*, recurse: bool) -> Zone:
    made = Zone(name_of("net1"), [name_of("corp.test")])
    made.recurse = recurse
    made.add([name_of("db"), name_of("my.db")], [IPv4Address("10.0.0.2"), IPv6Address("fd00::2")])
    return made


@pytest.mark.parametrize(
    ("name", "kind", "open_", "internal"),
    [
        ("db", A, (0, 1), (0, 1)),
        ("db", 16, (0, 0), (0, 0)),  # TXT: the name is there, such a record isn't
        ("db", 255, (0, 2), (0, 2)),
        ("my.db", A, (0, 1), (0, 1)),
        ("db.net1", A, (0, 1), (0, 1)),
        ("db.corp.test", A, (0, 1), (0, 1)),
        ("www.corp.test", A, None, (3, 0)),
        ("other.net1", A, (3, 0), (3, 0)),
        ("other", A, (3, 0), (3, 0)),
        ("example.test", A, None, (3, 0)),
        ("2.0.0.10.in-addr.arpa", PTR, (0, 2), (0, 2)),
        ("3.0.0.10.in-addr.arpa", PTR, None, (3, 0)),
    ],
)
def test_zone_answers_what_is_its_own(name: str, kind: int, open_: tuple[int, int] | None, internal: tuple[int, int]) -> None:
    assert asked(zone(recurse=True), name, kind) == open_
    assert asked(zone(recurse=False), name, kind) == internal


def test_addresses_of_a_name_take_turns() -> None:
    made = zone(recurse=False)
    made.add([name_of("web")], [IPv4Address(f"10.0.0.{number}") for number in (1, 2, 3)])
    query = Query.parse(message((b"web",)))
    firsts = [(made.answer(query, None) or b"")[12 + len(query.question) + 12 :][:4] for _ in range(6)]
    assert len(set(firsts)) == 3
    assert firsts[:3] == firsts[3:]
