"""Which servers a test's wide fixtures run outside: what is forwarded into its sandbox.

Counted are the wide fixtures of the item's closure, and what these asked for while they were set up. A server is a TCP
socket that listens, or a bound UDP one, on the loopback or on the wildcard address, which such a fixture opened in the pytest
process or which a process that it started holds. That is looked up right before the fork, in the descriptors and descendants
of each fixture: a server may have begun to listen, or have been closed, since the set-up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from pytest_isolate.kernel.inet_sockets import InetSocket, descendants, inodes, of_descriptor, same_network
from pytest_isolate.kernel.sock_diag import serving
from pytest_isolate.network.forwards import Forward, forwards_of
from pytest_isolate.plugin import wide
from pytest_isolate.plugin.witness import SetUp, Witness, open_fds

__all__ = ["Server", "servers"]

SetUps = dict[pytest.FixtureDef[Any], SetUp]


@dataclass(frozen=True, slots=True)
class Server:
    """One address at which a fixture's server is reached.

    Attributes:
        fixture: that it belongs to.
        inode: of its socket.
        forward: the address.
    """

    fixture: pytest.FixtureDef[Any]
    inode: int
    forward: Forward


def servers(witness: Witness, item: pytest.Item) -> list[Server]:
    """Those of the item's fixtures, each address once. Nothing is looked up where none of them holds anything."""
    set_ups = witness.set_ups
    if not {fixture.argname for fixture in set_ups}.intersection(getattr(item, "fixturenames", ())):
        return []
    found: dict[Forward, Server] = {}
    for fixture in _counted(item, set_ups):
        for sock, others in (*_own(fixture, set_ups), *_of_children(set_ups[fixture])):
            for forward in forwards_of(sock, others):
                found.setdefault(forward, Server(fixture, sock.inode, forward))
    return list(found.values())


def _counted(item: pytest.Item, set_ups: SetUps) -> list[pytest.FixtureDef[Any]]:
    used = wide.definitions(item)
    waiting = [fixture for fixture in set_ups if fixture in used]
    counted: dict[pytest.FixtureDef[Any], None] = {}
    while waiting:
        fixture = waiting.pop(0)
        if fixture in set_ups and fixture not in counted:
            counted[fixture] = None
            waiting += set_ups[fixture].nested
    return list(counted)


def _own(fixture: pytest.FixtureDef[Any], set_ups: SetUps) -> Iterator[tuple[InetSocket, Collection[InetSocket]]]:
    """In the pytest process: opened by the set-up, or by a thread that it left, since then."""
    held = set_ups[fixture].held.alive()
    fds = {fd for fd, _ in held.sockets}
    if held.threads:
        others = {fd for other in set_ups.values() for fd, _ in other.held.sockets}
        fds |= open_fds() - set_ups[fixture].fds - others
    for fd in sorted(fds):
        if (sock := of_descriptor(fd)) is not None and sock.serves:
            yield sock, ()


def _of_children(set_up: SetUp) -> Iterator[tuple[InetSocket, Collection[InetSocket]]]:
    """In processes that the set-up started. What they inherited from the pytest process isn't theirs."""
    if not set_up.held.children:
        return
    alive = descendants(pid for pid, _ in set_up.held.alive().children)
    theirs = {inode for pid in alive if same_network(pid) for inode in inodes(pid)}
    if not theirs:
        return
    there = serving()
    if found := [sock for sock in there if sock.inode in theirs]:
        inherited = inodes("self")
        yield from ((sock, there) for sock in found if sock.inode not in inherited)
