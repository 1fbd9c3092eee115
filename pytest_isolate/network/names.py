"""The name server of the run's networks: sandboxes find each other by name, and everything else through the host's servers.

One thread runs one asyncio loop for all networks. It is started while its process is still in the host's network namespace, and
a thread keeps its namespace when another one unshares: so the sockets that it makes ask the host's servers from where the host
does, a server on 127.0.0.53 as well, while the sockets that it listens on are made by others in the networks' namespace.

What isn't ours is passed on as bytes, and the answer passed back as bytes, DNSSEC and all; only the id is changed, so that
neither a client nor a third party can guess which answer is waited for. Names of one label never leave: they are the run's.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import struct
import threading
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any, Final

from pytest_isolate.network.names_message import (
    IN,
    NOTIMP,
    REFUSED,
    SERVFAIL,
    MessageError,
    Query,
    answers,
    name_of,
    rcode_of,
    refusal,
)
from pytest_isolate.network.names_zone import Zone

__all__ = ["NameServer", "host_upstreams"]

Upstream = tuple[str, int]

_PORT: Final = 53
_MOST_SERVERS: Final = 3
"""MAXNS of resolv.conf(5)."""

_TRY: Final = 1.5
"""Seconds for one server. Each is tried twice, as glibc's resolver does."""

_TRIES: Final = 4.5
"""Seconds for all of them: less than the 5 s after which a client's resolver asks us again."""

_IDLE: Final = 10.0
"""Seconds that a TCP connection may stay silent."""

_AT_ONCE: Final = 128
"""Questions that are out at the same time; each has a socket of its own."""

_WAITING: Final = 1024
"""Questions that wait to be out; more are lost, as UDP loses."""

_CONNECTIONS: Final = 128
_LONGEST: Final = 65535


def host_upstreams(path: str = "/etc/resolv.conf") -> list[Upstream]:
    """The servers that the host asks, as resolv.conf(5) says: three at most, and the host itself if it names none."""
    found: list[Upstream] = []
    with suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            words = line.split()
            if len(words) < 2 or words[0] != "nameserver":
                continue
            with suppress(ValueError):
                ip_address(words[1])
                found.append((words[1], _PORT))
    return found[:_MOST_SERVERS] or [("127.0.0.1", _PORT)]


class NameServer:
    """Answers for any number of networks. Its methods may be called by any thread.

    Args:
        upstreams: servers, asked in this order: address (of IPv6 also with a scope) and port.
        search: domains that clients append to names of one label.
    """

    def __init__(self, upstreams: Sequence[Upstream], search: Sequence[str] = ()) -> None:
        self._upstreams = tuple(upstreams)
        self._search = tuple(name_of(domain) for domain in search)
        self._zones: dict[str, Zone] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._listeners: list[socket.socket] = []
        self._servers: list[asyncio.Server] = []
        self._open = 0
        self._loop = asyncio.new_event_loop()
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._thread = threading.Thread(target=self._run, name="pytest-isolate-names", daemon=True)
        self._thread.start()

    def serve(
        self,
        network: str,
        udp: socket.socket,
        tcp: socket.socket,
        *,
        recurse: bool,
        subnets: Sequence[IPv4Network | IPv6Network] = (),
    ) -> None:
        """Answer on two sockets, which are bound by the caller and belong to the server from now on. A network may have more of them.

        Args:
            recurse: pass on what isn't known; False for a network that leads nowhere.
            subnets: who is answered; empty: everybody who reaches the sockets.

        Raises:
            OSError: the sockets aren't bound.
        """
        zone = self._zone(network)
        zone.recurse = recurse
        zone.subnets = (*zone.subnets, *subnets)
        self._wait(self._listen(zone, udp, tcp))

    def add(self, network: str, names: Iterable[str], addresses: Iterable[str]) -> None:
        """Each of the names has each of the addresses from now on, besides those that it has. Raises ValueError."""
        self._zone(network).add([name_of(name) for name in names], [ip_address(address) for address in addresses])

    def remove(self, network: str, names: Iterable[str], addresses: Iterable[str]) -> None:
        """Undo `add`; what isn't there isn't missed. Raises ValueError."""
        self._zone(network).remove([name_of(name) for name in names], [ip_address(address) for address in addresses])

    def stop(self) -> None:
        """Close everything; waits for the thread."""
        if self._thread.is_alive():
            with suppress(RuntimeError):  # the loop was closed meanwhile
                self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def _zone(self, network: str) -> Zone:
        return self._zones.setdefault(network, Zone(name_of(network), self._search))

    def _wait(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            for server in self._servers:
                server.close()
            for listener in self._listeners:
                self._loop.remove_reader(listener)
                listener.close()
            for task in (tasks := asyncio.all_tasks(self._loop)):
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self._loop.close()

    async def _listen(self, zone: Zone, udp: socket.socket, tcp: socket.socket) -> None:
        udp.setblocking(False)
        tcp.setblocking(False)
        self._servers.append(await asyncio.start_server(lambda reader, writer: self._connected(zone, reader, writer), sock=tcp))
        self._listeners.append(udp)
        self._loop.add_reader(udp, self._received, zone, udp)

    def _received(self, zone: Zone, udp: socket.socket) -> None:
        """Of what has come, at most some in a row, so that one client doesn't keep the others waiting."""
        for _ in range(16):
            try:
                data, client = udp.recvfrom(_LONGEST)
            except OSError:  # EAGAIN; ICMP errors of answers that nobody waited for
                return
            with suppress(MessageError):
                self._asked(zone, udp, data, client)

    def _asked(self, zone: Zone, udp: socket.socket, data: bytes, client: tuple[Any, ...]) -> None:
        if not zone.admits(client[0]):
            return
        query = Query.parse(data)
        known = self._known(zone, query, limit=query.udp_size)
        if known is not None:
            _send(udp, known, client)
            return

        if len(self._tasks) >= _WAITING:
            return

        async def pass_on() -> None:
            _send(udp, await self._upstream(query, data, tcp=False), client)

        task = self._loop.create_task(pass_on())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connected(self, zone: Zone, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open > _CONNECTIONS or not zone.admits(writer.get_extra_info("peername")[0]):
                return
            while True:
                async with asyncio.timeout(_IDLE):
                    (length,) = struct.unpack("!H", await reader.readexactly(2))
                    data = await reader.readexactly(length)
                query = Query.parse(data)
                found = self._known(zone, query, limit=None) or await self._upstream(query, data, tcp=True)
                writer.write(struct.pack("!H", len(found)) + found)
                async with asyncio.timeout(_IDLE):
                    await writer.drain()
        except (OSError, TimeoutError, EOFError, MessageError):
            pass
        finally:
            self._open -= 1
            writer.transport.abort() if writer.transport.get_write_buffer_size() else writer.close()

    def _known(self, zone: Zone, query: Query, limit: int | None) -> bytes | None:
        """Our own answer; None for what others know."""
        if query.opcode:
            return refusal(query, NOTIMP, recurse=zone.recurse)
        if query.klass != IN:
            return refusal(query, REFUSED, recurse=zone.recurse)
        return zone.answer(query, limit)

    async def _upstream(self, query: Query, data: bytes, *, tcp: bool) -> bytes:
        """What the first of the servers says that knows; SERVFAIL if none does."""
        ask = self._ask_tcp if tcp else self._ask_udp
        found = None
        with suppress(TimeoutError):
            async with asyncio.timeout(_TRIES), self._places:
                for server in (*self._upstreams, *self._upstreams):
                    number = secrets.randbits(16)
                    with suppress(OSError, TimeoutError, EOFError):
                        async with asyncio.timeout(_TRY):
                            found = await ask(server, query, number, struct.pack("!H", number) + data[2:])
                            # As glibc's resolver does, go on to the next where this one can't or won't.
                            if rcode_of(found) not in (SERVFAIL, NOTIMP, REFUSED):
                                break
        return refusal(query, SERVFAIL, recurse=True) if found is None else struct.pack("!H", query.id) + found[2:]

    async def _ask_udp(self, server: Upstream, query: Query, number: int, data: bytes) -> bytes:
        """From a port of the kernel's choice, a new one for each question."""
        family, address = _address(server, socket.SOCK_DGRAM)
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as asking:
            asking.connect(address)
            await self._loop.sock_sendall(asking, data)
            while True:
                found = await self._loop.sock_recv(asking, _LONGEST)
                if answers(query, number, found):
                    return found

    async def _ask_tcp(self, server: Upstream, query: Query, number: int, data: bytes) -> bytes:
        family, address = _address(server, socket.SOCK_STREAM)
        with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as asking:
            await self._loop.sock_connect(asking, address)
            await self._loop.sock_sendall(asking, struct.pack("!H", len(data)) + data)
            (length,) = struct.unpack("!H", await self._exactly(asking, 2))
            found = await self._exactly(asking, length)
        if not answers(query, number, found):
            raise ConnectionError("an answer to another question")
        return found

    async def _exactly(self, asking: socket.socket, size: int) -> bytes:
        data = b""
        while len(data) < size:
            if not (more := await self._loop.sock_recv(asking, size - len(data))):
                raise EOFError
            data += more
        return data


def _send(udp: socket.socket, data: bytes, client: tuple[Any, ...]) -> None:
    with suppress(OSError):  # a client that is gone, or a full buffer: UDP
        udp.sendto(data, client)


def _address(server: Upstream, kind: socket.SocketKind) -> tuple[socket.AddressFamily, Any]:
    """With the scope of an IPv6 address as the number that it has in this thread's namespace. Raises OSError."""
    host, port = server
    family, _, _, _, address = socket.getaddrinfo(host, port, type=kind, flags=socket.AI_NUMERICHOST)[0]
    return family, address
