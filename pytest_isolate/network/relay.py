"""Carries TCP connections and UDP datagrams from listening sockets to targets, in user space.

A socket belongs to the network namespace that it was made in, whoever holds it. So one thread can listen in one
namespace and connect in another: listeners are handed in, outgoing sockets are made by the loop's thread, in that
thread's namespace. For published ports the listeners are the host's and the targets in the run's network; for servers
of wide fixtures the listeners are a sandbox's and the targets on the host's loopback.

TCP: the end of one direction is passed on alone (half-close); who reads slowly slows the other side down; a reset, and
a target that refuses, become a reset. The kernel completes the handshakes of a listening socket by itself, so a client
sees its connection made before the target is asked. UDP: an outgoing socket for each client, until nothing has passed
for a while; answers leave from the address that the client had sent to. What can't be sent at once is lost, as UDP may.

Who may listen, and where the targets are, is the caller's matter.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import Any, Final

__all__ = ["IDLE", "Relay", "Target"]

Target = tuple[str, int]
"""A numeric address and a port."""

IDLE: Final = 90.0
"""Seconds without a datagram after which a UDP client is forgotten; as long as docker-proxy waits."""

_LONGEST_CLOSE: Final = 5.0
_PASSES: Final = 8
"""Turns of the loop that take what has arrived to where it goes, before it is closed."""

_NO_ROOM: Final = 0.2
"""Seconds without accepting, once descriptors or memory have run out."""

_CHUNK: Final = 1 << 17
_CHUNKS: Final = 16
"""After so many chunks in a row the other connections have their turn."""

_DATAGRAMS: Final = 64
_LARGEST_DATAGRAM: Final = 1 << 16
_MOST_CLIENTS: Final = 1024
_BACKLOG: Final = 4096

_RESET: Final = struct.pack("ii", 1, 0)
_IP_PKTINFO: Final = 8  # linux/in.h; the socket module has no name for it before Python 3.14
_IN_PKTINFO: Final = struct.Struct("=i4s4s")
_IN6_PKTINFO: Final = struct.Struct("=16si")
_ANCILLARY: Final = socket.CMSG_SPACE(_IN_PKTINFO.size) + socket.CMSG_SPACE(_IN6_PKTINFO.size)

Sender = tuple[Any, bytes]
"""A UDP client's address, and the local address that it sent to."""


class Relay:
    """The loop and what it serves; it begins with the first `open`, in a thread, or with `run`.

    Args:
        idle: seconds after which a silent UDP client is forgotten.
    """

    def __init__(self, *, idle: float = IDLE) -> None:
        self._idle = idle
        self._loop = asyncio.new_event_loop()
        self._served: dict[str, list[_Served]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._turn = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._own = False
        self._stopped = False

    def start(self) -> None:
        """Run in a daemon thread: it starts in the network namespace of the caller. Idempotent."""
        with self._turn:
            if self._thread is None:
                self._own = True
                self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
                self._thread.start()

    def run(self) -> None:
        """Run in the calling thread, until `stop`; in place of `start`, and before the first `open`."""
        with self._turn:
            assert self._thread is None, "the relay has a thread"
            self._thread = threading.current_thread()
        self._run()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(self._close_all())
        finally:
            self._ended.set()
            self._loop.close()

    def open(self, key: str, listener: socket.socket, target: Target) -> None:
        """Serve `listener`, which is the relay's from now on (the caller's object is detached); doesn't wait.

        Args:
            key: for `close`; any number of listeners may share one.
            listener: a listening TCP socket or a bound UDP one, IPv4 or IPv6; what has arrived at it is served, too.
            target: where to connect to.

        Raises:
            ValueError: the socket is of another kind.
            RuntimeError: the relay has been stopped.
        """
        kind = _KINDS.get(listener.type)
        if kind is None or listener.family not in (socket.AF_INET, socket.AF_INET6):
            raise ValueError(f"neither TCP nor UDP: {listener!r}")
        if self._stopped:
            raise RuntimeError("the relay has been stopped")
        self.start()
        own = socket.socket(listener.family, listener.type, fileno=listener.detach())
        own.setblocking(False)
        served = kind(self._loop, own, target, self._idle)
        self._loop.call_soon_threadsafe(self._open, key, served)

    def _open(self, key: str, served: _Served) -> None:
        self._served.setdefault(key, []).append(served)
        served.watch()

    def close(self, key: str) -> None:
        """Pass on what has arrived at the listeners of `key`, then close them and their connections, orderly.

        Returns when that is done, or after 5 s; called in the loop's own thread, at once. An unknown key is nothing.
        """
        self._finish(self._close(key))

    async def _close(self, key: str) -> None:
        await asyncio.gather(*(served.close() for served in self._served.pop(key, ())))

    async def _close_all(self) -> None:
        await asyncio.gather(*(self._close(key) for key in list(self._served)), *self._closing)

    def stop(self) -> None:
        """Close everything and end the loop; returns when it has ended, as `close` does. Idempotent."""
        with self._turn:
            first, self._stopped = not self._stopped, True
        if self._thread is None:
            if first:
                self._loop.close()
            return
        with contextlib.suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(self._loop.stop)
        if self._thread is not threading.current_thread() and self._ended.wait(_LONGEST_CLOSE) and self._own:
            self._thread.join(_LONGEST_CLOSE)

    def _finish(self, work: Coroutine[Any, Any, None]) -> None:
        if self._thread is None or self._ended.is_set():
            work.close()
        elif self._thread is threading.current_thread():
            task = self._loop.create_task(work)
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        else:
            try:
                done = asyncio.run_coroutine_threadsafe(work, self._loop)
            except RuntimeError:  # it ends just now, and closes everything
                work.close()
                return
            with contextlib.suppress(TimeoutError, asyncio.CancelledError):
                done.result(_LONGEST_CLOSE)


class _Served(ABC):
    """One listener, in the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, listener: socket.socket, target: Target, idle: float) -> None:
        self._loop, self._listener, self._target, self._idle = loop, listener, target, idle

    @abstractmethod
    def watch(self) -> None: ...

    @abstractmethod
    async def close(self) -> None: ...

    def _outgoing(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._target[0] else socket.AF_INET
        made = socket.socket(family, self._listener.type)
        made.setblocking(False)
        return made


class _Tcp(_Served):
    def __init__(self, loop: asyncio.AbstractEventLoop, listener: socket.socket, target: Target, idle: float) -> None:
        super().__init__(loop, listener, target, idle)
        self._connections: set[asyncio.Task[None]] = set()

    def watch(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        for _ in range(_BACKLOG):
            try:
                near, _peer = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue
            except OSError:  # EMFILE, ENFILE, ENOBUFS, ENOMEM: clients wait in the backlog
                self._loop.remove_reader(self._listener)
                self._loop.call_later(_NO_ROOM, self.watch)
                return
            task = self._loop.create_task(self._serve(near))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

    async def _serve(self, near: socket.socket) -> None:
        """Ends with both sockets closed: in order, by reset, or, when it is cancelled, as those of a killed process are."""
        near.setblocking(False)
        with near:
            try:
                far = self._outgoing()
            except OSError:
                _reset(near)
                return
            with far:
                try:
                    await self._loop.sock_connect(far, self._target)
                    for sock in (near, far):
                        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    async with asyncio.TaskGroup() as both:
                        both.create_task(self._pump(near, far))
                        both.create_task(self._pump(far, near))
                except* OSError:
                    _reset(near, far)

    async def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        """Until the end of one direction. Raises OSError when either socket is reset."""
        passed = 0
        while data := await self._loop.sock_recv(source, _CHUNK):
            await self._loop.sock_sendall(sink, data)
            passed += 1
            if passed % _CHUNKS == 0:
                await asyncio.sleep(0)
        sink.shutdown(socket.SHUT_WR)

    async def close(self) -> None:
        self._accept()
        self._loop.remove_reader(self._listener)
        self._listener.close()
        for _ in range(_PASSES):
            if self._connections:
                await asyncio.sleep(0)
        for task in self._connections:
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections)


class _Udp(_Served):
    def __init__(self, loop: asyncio.AbstractEventLoop, listener: socket.socket, target: Target, idle: float) -> None:
        super().__init__(loop, listener, target, idle)
        self._clients: dict[Sender, _Client] = {}
        self._timer: asyncio.TimerHandle | None = None
        if listener.family == socket.AF_INET:
            listener.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        else:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)

    def watch(self) -> None:
        self._loop.add_reader(self._listener, self._receive)

    def _receive(self, most: int = _DATAGRAMS) -> None:
        for _ in range(most):
            try:
                data, ancillary, _flags, address = self._listener.recvmsg(_LARGEST_DATAGRAM, _ANCILLARY)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # an answer could not be delivered
                continue
            sender = address, _sent_to(ancillary)
            client = self._clients.get(sender) or self._new_client(sender)
            if client is not None:
                client.used = self._loop.time()
                with contextlib.suppress(OSError):
                    client.sock.send(data)

    def _new_client(self, sender: Sender) -> _Client | None:
        if len(self._clients) >= _MOST_CLIENTS:
            self._forget(min(self._clients, key=lambda known: self._clients[known].used))
        try:
            sock = self._outgoing()
        except OSError:
            return None
        try:
            sock.connect(self._target)
        except OSError:
            sock.close()
            return None
        client = self._clients[sender] = _Client(sock)
        self._loop.add_reader(sock, self._answer, client, sender)
        if self._timer is None:
            self._timer = self._loop.call_later(self._idle, self._forget_silent)
        return client

    def _answer(self, client: _Client, sender: Sender) -> None:
        address, sent_to = sender
        for _ in range(_DATAGRAMS):
            try:
                data = client.sock.recv(_LARGEST_DATAGRAM)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # nobody listens at the target: a client's socket has no way to be told
                continue
            client.used = self._loop.time()
            with contextlib.suppress(OSError):
                self._listener.sendmsg([data], [_sent_from(self._listener.family, sent_to)], 0, address)

    def _forget(self, sender: Sender) -> None:
        client = self._clients.pop(sender)
        self._loop.remove_reader(client.sock)
        client.sock.close()

    def _forget_silent(self) -> None:
        now = self._loop.time()
        for sender in [sender for sender, client in self._clients.items() if client.used + self._idle <= now]:
            self._forget(sender)
        oldest = min((client.used for client in self._clients.values()), default=None)
        self._timer = None if oldest is None else self._loop.call_at(oldest + self._idle, self._forget_silent)

    async def close(self) -> None:
        self._receive(_BACKLOG)
        if self._timer is not None:
            self._timer.cancel()
        for sender in list(self._clients):
            self._forget(sender)
        self._loop.remove_reader(self._listener)
        self._listener.close()


class _Client:
    """The outgoing socket of one UDP client, and when a datagram last passed, by the loop's clock."""

    __slots__ = ("sock", "used")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.used = 0.0


_KINDS: Final[dict[int, type[_Served]]] = {socket.SOCK_STREAM: _Tcp, socket.SOCK_DGRAM: _Udp}


def _reset(*socks: socket.socket) -> None:
    """Have close(2) send a reset (SO_LINGER of 0 seconds, socket(7))."""
    for sock in socks:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def _sent_to(ancillary: list[tuple[int, int, bytes]]) -> bytes:
    """The local address of a datagram, packed (ip(7) IP_PKTINFO, ipv6(7) IPV6_RECVPKTINFO); empty if it isn't told."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            _index, local, _header = _IN_PKTINFO.unpack(data[: _IN_PKTINFO.size])
            return bytes(local)
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            return data[:16]
    return b""


def _sent_from(family: int, address: bytes) -> tuple[int, int, bytes]:
    """The ancillary data that has a datagram leave from `address`."""
    if family == socket.AF_INET:
        return socket.IPPROTO_IP, _IP_PKTINFO, _IN_PKTINFO.pack(0, address or bytes(4), bytes(4))
    return socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _IN6_PKTINFO.pack(address or bytes(16), 0)
