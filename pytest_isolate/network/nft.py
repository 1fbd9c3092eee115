"""nf_tables over netlink: a table of our own, made in one transaction, without the nft binary.

Spoken is what the uplink needs: tables, base chains, rules, and reading chains and counters. pyroute2's NFTSocket sends a
transaction and doesn't read what the kernel answers, so messages are packed here and in `nft_rules`.

A table with NFT_TABLE_F_OWNER (Linux 5.12) goes when the socket that made it is closed, by SIGKILL too, and nobody else can
change or flush it. An older kernel refuses the flag; the table is then made without it, and its name, the run's, tells
the next run whether it may be removed.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from pytest_isolate.kernel.cgroup_runs import is_stale
from pytest_isolate.kernel.netlink import (
    ACK,
    APPEND,
    CREATE,
    DONE,
    DUMP,
    ERROR,
    EXCL,
    REQUEST,
    attribute,
    attributes,
    message,
    messages,
    raise_refusal,
)
from pytest_isolate.network.nft_rules import Chain, Rule, nested, number

__all__ = ["NftSocket", "ReadChain"]

_NETLINK_NETFILTER: Final = 12
_NFTABLES: Final = 10
_INET: Final = 1
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NEWTABLE, _GETTABLE, _DELTABLE, _NEWCHAIN, _GETCHAIN, _NEWRULE, _GETRULE = 0, 1, 2, 3, 4, 6, 7
_OWNER: Final = 2
_POLICIES: Final = {0: "drop", 1: "accept"}
_FAMILIES: Final = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
_BUFFER: Final = 1 << 17


@dataclass(frozen=True, slots=True)
class ReadChain:
    """A chain of anybody's.

    Attributes:
        family: as nft spells it: ``inet``, ``ip``, ``ip6``, …
        hook: number of the hook; None for a chain that is only jumped to.
        policy: ``accept`` or ``drop``; empty without a hook.
    """

    family: str
    table: str
    name: str
    hook: int | None
    policy: str


class NftSocket:
    """A netlink socket of the network namespace of the thread that makes it.

    It may be used from any thread, one at a time.

    Raises:
        OSError: EPROTONOSUPPORT where the kernel has no netfilter.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER * 4)
            self._socket.bind((0, 0))
        except BaseException:
            self._socket.close()
            raise

    def create(self, table: str, chains: tuple[Chain, ...]) -> bool:
        """Make an inet table with everything in it, or nothing of it.

        Returns:
            Whether it goes with this socket; if not, it must be deleted.

        Raises:
            OSError: the kernel's first answer that isn't success: EEXIST, EPERM, EINVAL or EOPNOTSUPP without nf_tables.
        """
        for owner in (True, False):
            try:
                self._transact(
                    [
                        (_NEWTABLE, CREATE | EXCL, attribute(1, _text(table)) + number(2, _OWNER if owner else 0)),
                        *_contents(table, chains),
                    ]
                )
            except OSError as error:
                if not owner or error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                    raise
            else:
                return owner
        raise AssertionError

    def delete(self, table: str) -> None:
        """Raises OSError: ENOENT, EPERM for one that another socket owns."""
        self._transact([(_DELTABLE, 0, attribute(1, _text(table)))])

    def tables(self) -> list[str]:
        """Names of inet tables. Raises OSError."""
        return [_string(found[1]) for family, found in self._dump(_GETTABLE, b"", _INET) if family == _INET]

    def sweep(self, run: str) -> list[str]:
        """Delete the tables of runs that have ended and what a killed hub of `run` left; gives their names."""
        stale = [table for table in self.tables() if table == run or is_stale(table)]
        for table in stale:
            with suppress(OSError):  # another run was faster
                self.delete(table)
        return stale

    def chains(self) -> list[ReadChain]:
        """Everybody's, of every family. Raises OSError."""
        return [_chain(family, found) for family, found in self._dump(_GETCHAIN, b"", 0)]

    def packets(self, table: str, chain: str) -> list[int]:
        """What each rule with a counter has counted. Raises OSError."""
        asked = attribute(1, _text(table)) + attribute(2, _text(chain))
        found = []
        for _family, rule in self._dump(_GETRULE, asked, _INET):
            if (_string(rule[1]), _string(rule[2])) != (table, chain):  # kernels before 4.19 don't filter
                continue
            for _kind, element in attributes(rule.get(4, b"")):
                expression = dict(attributes(element))
                if _string(expression[1]) == "counter":
                    found.append(int.from_bytes(dict(attributes(expression[2]))[2], "big"))
        return found

    def close(self) -> None:
        self._socket.close()

    def _transact(self, orders: list[tuple[int, int, bytes]]) -> None:
        kinds = [(_NFTABLES << 8 | kind, flags | REQUEST | ACK, _general(_INET) + body) for kind, flags, body in orders]
        begin, end = ((kind, REQUEST, _general(0, _NFTABLES)) for kind in (_BATCH_BEGIN, _BATCH_END))
        packets = [begin, *kinds, end]
        data = b"".join(message(kind, flags, number, body) for number, (kind, flags, body) in enumerate(packets))
        self._socket.send(data)
        # The kernel works on it within send(2): by now every answer is here.
        answers = [body for kind, body in self._received(socket.MSG_DONTWAIT) if kind == ERROR]
        for answer in answers:
            raise_refusal(answer)
        if len(answers) < len(orders):
            raise OSError(errno.EPROTO, "the kernel didn't answer every message of an nf_tables transaction")

    def _dump(self, kind: int, body: bytes, family: int) -> Iterator[tuple[int, dict[int, bytes]]]:
        self._socket.send(message(_NFTABLES << 8 | kind, REQUEST | DUMP, 0, _general(family) + body))
        done = False
        while not done:
            for answer, payload in self._received(0):
                if answer in (ERROR, DONE):
                    raise_refusal(payload)
                    done = True
                elif not done:
                    yield payload[0], dict(attributes(payload[4:]))

    def _received(self, flags: int) -> list[tuple[int, bytes]]:
        """Type and payload of the messages of one packet, or with MSG_DONTWAIT of all packets there are."""
        found: list[tuple[int, bytes]] = []
        while True:
            try:
                data = self._socket.recv(_BUFFER, flags)
            except BlockingIOError:
                return found
            found += [(told.kind, told.body) for told in messages(data)]
            if not flags:
                return found


def _contents(table: str, chains: tuple[Chain, ...]) -> list[tuple[int, int, bytes]]:
    messages = []
    for chain in chains:
        hook = nested(4, number(1, chain.hook), number(2, chain.priority))
        body = (
            attribute(1, _text(table)) + attribute(3, _text(chain.name)) + hook + number(5, 1) + attribute(7, _text(chain.kind))
        )
        messages.append((_NEWCHAIN, CREATE | EXCL, body))
        messages += [(_NEWRULE, CREATE | APPEND, _rule(table, chain.name, rule)) for rule in chain.rules]
    return messages


def _rule(table: str, chain: str, rule: Rule) -> bytes:
    return attribute(1, _text(table)) + attribute(2, _text(chain)) + nested(4, *(nested(1, expression) for expression in rule))


def _chain(family: int, found: dict[int, bytes]) -> ReadChain:
    hook = dict(attributes(found[4])) if 4 in found else {}
    policy = _POLICIES.get(int.from_bytes(found[5], "big"), "") if 5 in found else ""
    return ReadChain(
        _FAMILIES.get(family, str(family)),
        _string(found[1]),
        _string(found[3]),
        int.from_bytes(hook[1], "big") if 1 in hook else None,
        policy,
    )


def _general(family: int, resource: int = 0) -> bytes:
    """`struct nfgenmsg`."""
    return struct.pack(">BBH", family, 0, resource)


def _text(text: str) -> bytes:
    return text.encode() + b"\0"


def _string(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="replace")
