"""The relay, between sockets on this machine's loopback."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest

from pytest_isolate.network.relay import Relay

LIMIT = 10.0
Serve = Callable[[socket.socket], None]


@pytest.fixture
def relay() -> Iterator[Relay]:
    made = Relay()
    yield made
    made.stop()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def tcp(stack: ExitStack, host: str = "127.0.0.1") -> socket.socket:
    made = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    return stack.enter_context(made)


def udp(stack: ExitStack, host: str = "127.0.0.1") -> socket.socket:
    made = stack.enter_context(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM))
    made.bind((host, 0))
    made.settimeout(LIMIT)
    return made


def served(server: socket.socket, handle: Serve) -> None:
    """Handle each connection in a thread."""

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=handle, args=(server.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def echo(conn: socket.socket) -> None:
    with conn:
        while data := conn.recv(1 << 16):
            conn.sendall(data)


def address(sock: socket.socket) -> tuple[str, int]:
    return sock.getsockname()[:2]


def everything(conn: socket.socket) -> bytes:
    parts = []
    while data := conn.recv(1 << 16):
        parts.append(data)
    return b"".join(parts)


def opened(relay: Relay, stack: ExitStack, handle: Serve, key: str = "key", host: str = "127.0.0.1") -> tuple[str, int]:
    """Where a server that handles connections is reached through the relay."""
    server = tcp(stack, host)
    served(server, handle)
    listener = tcp(stack, host)
    at = address(listener)
    relay.open(key, listener, address(server))
    return at


def connect(stack: ExitStack, at: tuple[str, int]) -> socket.socket:
    return stack.enter_context(socket.create_connection(at, timeout=LIMIT))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_megabytes_come_back_whole_and_in_order(relay: Relay, stack: ExitStack, host: str) -> None:
    conn = connect(stack, opened(relay, stack, echo, host=host))
    data = os.urandom(8 << 20)
    threading.Thread(target=lambda: (conn.sendall(data), conn.shutdown(socket.SHUT_WR)), daemon=True).start()
    assert everything(conn) == data


def test_end_of_one_direction_is_passed_on_alone(relay: Relay, stack: ExitStack) -> None:
    def answer_at_the_end(conn: socket.socket) -> None:
        with conn:
            conn.sendall(b"all: " + everything(conn))

    conn = connect(stack, opened(relay, stack, answer_at_the_end))
    conn.sendall(b"question")
    conn.shutdown(socket.SHUT_WR)
    assert everything(conn) == b"all: question"


def test_server_that_doesnt_read_stops_the_client(relay: Relay, stack: ExitStack) -> None:
    go = threading.Event()
    got: list[int] = []

    def read_late(conn: socket.socket) -> None:
        with conn:
            go.wait(LIMIT)
            got.append(len(everything(conn)))
            conn.sendall(b"done")

    conn = connect(stack, opened(relay, stack, read_late))
    conn.settimeout(0.5)
    sent = 0
    with pytest.raises(TimeoutError):
        while sent < 1 << 30:
            sent += conn.send(bytes(1 << 16))
    assert sent < 64 << 20  # what the kernel buffers of four sockets take, and no more
    go.set()
    conn.settimeout(LIMIT)
    conn.shutdown(socket.SHUT_WR)
    assert everything(conn) == b"done"
    assert got == [sent]


def reset(conn: socket.socket) -> None:
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    conn.close()


def test_reset_by_the_server_reaches_the_client(relay: Relay, stack: ExitStack) -> None:
    conn = connect(stack, opened(relay, stack, lambda far: (far.recv(1), reset(far))[0]))
    conn.sendall(b"x")
    with pytest.raises(ConnectionResetError):
        conn.recv(1)


def test_reset_by_the_client_reaches_the_server(relay: Relay, stack: ExitStack) -> None:
    seen: list[str] = []
    told = threading.Event()

    def wait_for_it(conn: socket.socket) -> None:
        with conn:
            conn.sendall(b"x")
            try:
                conn.recv(1)
                seen.append("end")
            except OSError as error:
                seen.append(type(error).__name__)
        told.set()

    conn = connect(stack, opened(relay, stack, wait_for_it))
    conn.recv(1)
    reset(conn)
    assert told.wait(LIMIT)
    assert seen == ["ConnectionResetError"]


def test_target_that_refuses_is_a_reset(relay: Relay, stack: ExitStack) -> None:
    with socket.socket() as bound:  # bound, not listening: the port refuses and nobody else gets it
        bound.bind(("127.0.0.1", 0))
        listener = tcp(stack)
        at = address(listener)
        relay.open("key", listener, address(bound))
        with pytest.raises(ConnectionResetError):
            connect(stack, at).recv(1)


def test_what_came_before_the_relay_is_served(relay: Relay, stack: ExitStack) -> None:
    server, listener = tcp(stack), tcp(stack)
    served(server, echo)
    conn = connect(stack, address(listener))
    conn.sendall(b"early")
    relay.open("key", listener, address(server))
    assert conn.recv(5) == b"early"


def test_close_passes_on_what_has_arrived_then_closes_that_key_only(relay: Relay, stack: ExitStack) -> None:
    got: list[bytes] = []
    told = threading.Event()

    def collect(conn: socket.socket) -> None:
        with conn:
            got.append(everything(conn))
            told.set()

    kept = connect(stack, opened(relay, stack, echo, "kept"))
    at = opened(relay, stack, collect, "closed")
    conn = connect(stack, at)
    conn.sendall(b"last words")
    relay.close("closed")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(at, timeout=LIMIT)
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(at)
    assert conn.recv(1) == b""
    assert told.wait(LIMIT)
    assert got == [b"last words"]
    kept.sendall(b"still")
    assert kept.recv(5) == b"still"


def test_close_of_an_unknown_key_and_after_the_end_is_nothing(relay: Relay) -> None:
    relay.close("never started")
    relay.start()
    relay.close("unknown")
    relay.stop()
    relay.stop()
    relay.close("over")


def test_two_clients_of_a_udp_server_get_their_own_answers(relay: Relay, stack: ExitStack) -> None:
    server, listener = udp(stack), udp(stack)
    at = address(listener)
    relay.open("key", listener, address(server))
    clients = [udp(stack), udp(stack)]
    for number, client in enumerate(clients):
        client.connect(at)
        client.send(b"%d" % number)
    for _ in clients:
        data, sender = server.recvfrom(100)
        server.sendto(b"re " + data, sender)
    assert [client.recv(100) for client in clients] == [b"re 0", b"re 1"]


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_udp_answer_leaves_from_the_address_that_was_asked(relay: Relay, stack: ExitStack, family: int) -> None:
    wildcard, loopback = ("0.0.0.0", "127.0.0.2") if family == socket.AF_INET else ("::", "::1")
    server, listener = udp(stack), udp(stack, wildcard)
    port = address(listener)[1]
    relay.open("key", listener, address(server))
    client = udp(stack, "127.0.0.1" if family == socket.AF_INET else "::1")
    client.sendto(b"?", (loopback, port))
    _, sender = server.recvfrom(100)
    server.sendto(b"!", sender)
    assert client.recvfrom(100)[1][:2] == (loopback, port)


def test_silent_udp_client_is_forgotten_and_comes_back_as_a_new_one(stack: ExitStack) -> None:
    relay = Relay(idle=0.2)
    stack.callback(relay.stop)
    server, listener = udp(stack), udp(stack)
    at = address(listener)
    relay.open("key", listener, address(server))
    client = udp(stack)
    client.sendto(b"1", at)
    first = server.recvfrom(100)[1]
    before = len(os.listdir("/proc/self/fd"))
    end = time.monotonic() + LIMIT
    while len(os.listdir("/proc/self/fd")) == before and time.monotonic() < end:
        time.sleep(0.02)
    assert len(os.listdir("/proc/self/fd")) == before - 1
    client.sendto(b"2", at)
    again = server.recvfrom(100)[1]
    assert again != first
    server.sendto(b"!", again)
    assert client.recv(1) == b"!"


def test_datagram_to_nobody_is_lost_and_the_next_one_arrives(relay: Relay, stack: ExitStack) -> None:
    listener, client = udp(stack), udp(stack)
    at = address(listener)
    target = udp(stack)
    where = address(target)
    target.close()
    relay.open("key", listener, where)
    client.sendto(b"lost", at)
    with stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as server:
        time.sleep(0.1)
        server.bind(where)
        server.settimeout(LIMIT)
        client.sendto(b"found", at)  # the socket has the refusal of the first one pending
        client.sendto(b"found", at)
        assert server.recv(100) == b"found"


def test_run_makes_the_callers_thread_the_loop(stack: ExitStack) -> None:
    relay = Relay()
    threads: list[str] = []
    answers: list[bytes] = []

    def use() -> None:
        conn = connect(stack, opened(relay, stack, echo))
        conn.sendall(b"x")
        answers.append(conn.recv(1))
        threads.extend(thread.name for thread in threading.enumerate())
        relay.close("key")
        answers.append(conn.recv(1))
        relay.stop()

    user = threading.Timer(0.1, use)
    user.start()
    relay.run()
    user.join(LIMIT)
    assert answers == [b"x", b""]
    assert "relay" not in threads


def test_nothing_is_left_after_stop(stack: ExitStack) -> None:
    before = len(os.listdir("/proc/self/fd"))  # numbers tell nothing: the listing has one itself
    relay = Relay()
    with ExitStack() as inner:
        conn = connect(inner, opened(relay, inner, echo))
        conn.sendall(b"x")
        assert conn.recv(1) == b"x"
        server, listener, client = udp(inner), udp(inner), udp(inner)
        at = address(listener)
        relay.open("key", listener, address(server))
        client.sendto(b"x", at)
        assert server.recv(1) == b"x"
        relay.stop()
        with pytest.raises(RuntimeError, match="stopped"):
            relay.open("key", tcp(inner), at)
        assert conn.recv(1) == b""
    assert "relay" not in {thread.name for thread in threading.enumerate()}
    deadline = time.monotonic() + 5
    while len(os.listdir("/proc/self/fd")) > before and time.monotonic() < deadline:
        time.sleep(0.01)  # the servers above close theirs in threads of their own
    assert len(os.listdir("/proc/self/fd")) <= before


def test_sockets_of_other_kinds_are_refused(relay: Relay, stack: ExitStack) -> None:
    with pytest.raises(ValueError, match="neither TCP nor UDP"):
        relay.open("key", stack.enter_context(socket.socket(socket.AF_UNIX)), ("127.0.0.1", 1))
