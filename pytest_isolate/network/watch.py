"""With whom the sandboxes of a run had contact, whatever program made it: seen on the wire, in the network namespace of the run.

Packet sockets see each packet in passing; a filter in the kernel picks those that open, accept or refuse (`packets`). Two ways lead
past, and each packet between a sandbox and anybody goes one of them: what a sandbox sends comes *in* on its end of a veth pair, and
what the gateway sends or forwards goes *out* of the bridge. The first is seen by one socket for all interfaces that ignores what goes
out (PACKET_IGNORE_OUTGOING, Linux 4.20), which costs a fast stream nothing that can be measured; a bridge in promiscuous mode
would hand each packet to the gateway as well, and costs 3 to 5 %. A socket for each sandbox is no way: closing one waits for an RCU
grace period.

A thread reads what has come, ten times a second while there is something. What doesn't fit the sockets' memory until then is lost,
and said to be: connections and datagrams have sockets of their own, so that a flood of datagrams hides no connection.

Not seen: what fails inside the sandbox already, as an address of the own subnet that nobody has.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from itertools import islice
from typing import Any, Final

from pytest_isolate.model.usage import Contact, Contacts
from pytest_isolate.network.packets import CONNECTIONS, DATAGRAMS, Seen, filtering, read

__all__ = ["MOST", "Watch"]

MOST: Final = 100
"""Of each kind of contact in a report."""

_REMEMBERED: Final = 10_000
"""Of each kind for one address: further ones aren't counted any more. So are addresses."""

_PAUSE: Final = 0.1
"""Seconds between two readings."""

_MEMORY: Final = 8 << 20
"""Bytes of packets that wait, where we may (CAP_NET_ADMIN of the machine); else net.core.rmem_max."""

_ENOUGH: Final = 256
"""Bytes: more than the filter lets through of a packet."""

_NAME_SERVICE: Final = 53

_ETH_P_ALL: Final = 3
_SOL_PACKET: Final = 263
_PACKET_STATISTICS: Final = 6
_PACKET_IGNORE_OUTGOING: Final = 23
_SO_ATTACH_FILTER: Final = 26
_SO_RCVBUFFORCE: Final = 33
_PACKET_OUTGOING: Final = 4


@dataclass(slots=True)
class _Record:
    """Of one local address. Dictionaries are sets that keep their order."""

    wanted: dict[Contact, None] = field(default_factory=dict)
    reached: dict[Contact, None] = field(default_factory=dict)
    refused: dict[Contact, None] = field(default_factory=dict)
    sent: dict[tuple[int, Contact], None] = field(default_factory=dict)
    incomplete: bool = False

    def contacts(self) -> Contacts:
        unanswered = {contact: None for contact in self.wanted if contact not in self.reached and contact not in self.refused}
        kinds = (self.reached, self.refused, unanswered)
        reached, refused, without = (tuple(islice(kind, MOST)) for kind in kinds)
        return Contacts(reached, refused, without, sum(max(len(kind) - MOST, 0) for kind in kinds), self.incomplete)


class Watch:
    """Watches the network namespace in which it is made, and one bridge in it or more.

    Args:
        interface: a bridge.
        gateways: its own addresses: what is asked of their port 53 is left out.

    Raises:
        OSError: no CAP_NET_RAW in the namespace, or no such interface.
    """

    def __init__(self, interface: str, gateways: Iterable[str] = ()) -> None:
        self._records: dict[str, _Record] = {}
        self._gateways: set[str] = set()
        self._lock = threading.Lock()
        self._incoming: list[socket.socket] = []
        self._outgoing: list[socket.socket] = []
        self._end = os.eventfd(0, os.EFD_CLOEXEC)
        try:
            for program in (CONNECTIONS, DATAGRAMS):
                self._incoming.append(_packet_socket(program, ""))
            self.add(interface, gateways)
        except OSError:
            self._close()
            raise
        self._thread = threading.Thread(target=self._run, name="pytest-isolate-watch", daemon=True)
        self._thread.start()

    def add(self, interface: str, gateways: Iterable[str] = ()) -> None:
        """One more bridge. Call it in the same network namespace. Raises OSError."""
        made: list[socket.socket] = []
        for program in (CONNECTIONS, DATAGRAMS):
            made.append(_packet_socket(program, interface))
        with self._lock:
            self._outgoing += made
            self._gateways.update(str(ip_address(gateway)) for gateway in gateways)

    def take(self, address: str) -> Contacts:
        """What the owner of an address did until now, and forget it. Raises ValueError."""
        with self._lock:
            self._drain()
            record = self._records.pop(str(ip_address(address)), _Record())
        return record.contacts()

    def stop(self) -> None:
        """Waits for the thread; takes some milliseconds (RCU grace periods)."""
        os.eventfd_write(self._end, 1)
        self._thread.join()
        self._close()

    def _close(self) -> None:
        for made in (*self._incoming, *self._outgoing):
            made.close()
        os.close(self._end)

    def _run(self) -> None:
        while True:
            with self._lock:
                waiting = [*self._incoming, *self._outgoing]
            poll = select.poll()
            poll.register(self._end, select.POLLIN)
            for made in waiting:
                poll.register(made, select.POLLIN)
            # A bridge that is added meanwhile is polled from the next packet on; until then its packets wait.
            ready = poll.poll()
            if any(fd == self._end for fd, _ in ready):
                return
            poll = select.poll()
            poll.register(self._end, select.POLLIN)
            if poll.poll(_PAUSE * 1000):
                return
            with self._lock:
                self._drain()

    def _drain(self) -> None:
        """Answers are read before, and looked at after, what they may be answers to."""
        answers = [packet for made in self._outgoing for packet in self._received(made, outgoing=True)]
        for made in self._incoming:
            for packet in self._received(made, outgoing=False):
                self._note(packet)
        for packet in answers:
            self._note(packet)

    def _received(self, made: socket.socket, *, outgoing: bool) -> list[bytes]:
        found = []
        while True:
            try:
                packet, address = made.recvfrom(_ENOUGH)
            except OSError:  # EAGAIN; ENETDOWN, once: the bridge is gone
                break
            if not outgoing or address[2] == _PACKET_OUTGOING:
                found.append(packet)
        _packets, drops = struct.unpack("2I", made.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))  # since the last time
        if drops:
            for record in self._records.values():
                record.incomplete = True
        return found

    def _note(self, packet: bytes) -> None:
        seen = read(packet)
        if seen is None or (seen.remote[2] == _NAME_SERVICE and seen.remote[1] in self._gateways):
            return
        if seen.kind == "sends" and self._is_answer(seen):
            return
        record = self._record(seen.local)
        if record is None:
            return
        if seen.kind == "sends":
            if not _is_for_one(seen.remote[1]):
                return
            _put(record.sent, (seen.local_port, seen.remote))
        if seen.kind == "resets":
            # The end of a connection, or of none: pasta gives its answer to a SYN a sequence number.
            if seen.remote in record.wanted and seen.remote not in record.reached:
                _put(record.refused, seen.remote)
            return
        _put(record.wanted, seen.remote)
        if seen.kind == "accepts":
            _put(record.reached, seen.remote)
        elif seen.kind == "refuses":
            _put(record.refused, seen.remote)

    def _is_answer(self, seen: Seen) -> bool:
        """Whether a datagram goes back to where one came from; then its sender was reached."""
        protocol, address, port = seen.remote
        asked = self._records.get(address)
        contact = (protocol, seen.local, seen.local_port)
        if asked is None or (port, contact) not in asked.sent:
            return contact[2] == _NAME_SERVICE and contact[1] in self._gateways
        _put(asked.reached, contact)
        return True

    def _record(self, address: str) -> _Record | None:
        if address not in self._records and len(self._records) < _REMEMBERED and not ip_address(address).is_loopback:
            self._records[address] = _Record()
        return self._records.get(address)


def _put(entries: dict[Any, None], entry: object) -> None:
    if len(entries) < _REMEMBERED:
        entries[entry] = None


def _is_for_one(address: str) -> bool:
    """Neither multicast nor the broadcast of every network."""
    return not (ip_address(address).is_multicast or address == "255.255.255.255")


def _packet_socket(program: tuple[bytes, ...], interface: str) -> socket.socket:
    """Its packets begin with the network header (SOCK_DGRAM).

    Args:
        interface: whose packets, those that go out as well; empty: what comes in on any interface.
    """
    made = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 0 if interface else socket.htons(_ETH_P_ALL))
    try:
        made.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 0 if interface else 1)
        with filtering(program) as code:
            made.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, code)
        try:
            made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _MEMORY)
        except PermissionError:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _MEMORY)
        if interface:
            made.bind((interface, _ETH_P_ALL))
        else:
            with suppress(BlockingIOError):
                while True:  # what came before the filter was there
                    made.recv(1)
    except OSError:
        made.close()
        raise
    return made
