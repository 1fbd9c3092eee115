"""Sockets as the kernel tells them, by descriptor and by table, and the addresses that are forwarded for them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from pytest_isolate.kernel import sock_diag
from pytest_isolate.kernel.inet_sockets import (
    InetSocket,
    descendants,
    in_tables,
    inodes,
    of_descriptor,
    same_network,
    socket_inode,
)
from pytest_isolate.kernel.sock_diag import serving
from pytest_isolate.network.forwards import Forward, forwards_of, listen


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def bound(stack: ExitStack, kind: int, host: str) -> socket.socket:
    made = stack.enter_context(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind))
    made.bind((host, 0))
    if kind == socket.SOCK_STREAM:
        made.listen()
    return made


def told(sock: socket.socket) -> list[InetSocket]:
    """The same socket by its descriptor, by its inode and, if it serves, by sock_diag."""
    by_descriptor = of_descriptor(sock.fileno())
    assert by_descriptor is not None
    inode = os.fstat(sock.fileno()).st_ino
    assert inode in inodes("self")
    by_table = in_tables({inode})
    assert len(by_table) == 1
    by_diag = [found for found in serving() if found.inode == inode]
    assert len(by_diag) == by_descriptor.serves
    assert all(found.v6only == by_descriptor.v6only for found in by_diag)
    return [by_descriptor, *by_table, *by_diag]


@pytest.mark.parametrize("v6only", [True, False])
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_whether_ipv4_is_answered_too_is_told(kind: int, v6only: bool) -> None:
    with socket.socket(socket.AF_INET6, kind) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
        sock.bind(("::", 0))
        if kind == socket.SOCK_STREAM:
            sock.listen()
        by_descriptor, _, by_diag = told(sock)
        assert by_descriptor.v6only is v6only
        assert by_diag.v6only is v6only


def test_without_sock_diag_the_tables_tell(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    server = bound(stack, socket.SOCK_STREAM, "127.0.0.1")
    with_it = {(sock.kind, sock.host, sock.port) for sock in serving()}
    monkeypatch.setattr(sock_diag, "_SOCK_DIAG_BY_FAMILY", 19)  # no such message: the kernel answers with an error
    without = {(sock.kind, sock.host, sock.port) for sock in serving()}
    assert ("tcp", *server.getsockname()) in with_it & without


@pytest.mark.parametrize("kind,name", [(socket.SOCK_STREAM, "tcp"), (socket.SOCK_DGRAM, "udp")])
@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "0.0.0.0", "::"])
def test_server_is_told_the_same_by_descriptor_and_by_table(stack: ExitStack, kind: int, name: str, host: str) -> None:
    sock = bound(stack, kind, host)
    for found in told(sock):
        assert (found.kind, found.host, found.port, found.serves, found.remote) == (name, host, sock.getsockname()[1], True, "")


def test_connected_sockets_serve_nothing(stack: ExitStack) -> None:
    server = bound(stack, socket.SOCK_STREAM, "127.0.0.1")
    client = stack.enter_context(socket.create_connection(server.getsockname()))
    accepted = stack.enter_context(server.accept()[0])
    peer = bound(stack, socket.SOCK_DGRAM, "127.0.0.1")
    talker = bound(stack, socket.SOCK_DGRAM, "127.0.0.1")
    talker.connect(peer.getsockname())
    for sock, at in ((client, server), (accepted, client), (talker, peer)):
        for found in told(sock):
            assert not found.serves
            assert found.remote == f"127.0.0.1:{at.getsockname()[1]}"
            assert forwards_of(found) == []


def test_sockets_that_are_not_bound_or_of_another_kind_serve_nothing(stack: ExitStack) -> None:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        unbound = of_descriptor(stack.enter_context(socket.socket(socket.AF_INET, kind)).fileno())
        assert unbound is not None
        assert not unbound.serves
    assert of_descriptor(stack.enter_context(socket.socket(socket.AF_UNIX)).fileno()) is None
    assert of_descriptor(stack.enter_context(open("/dev/null")).fileno()) is None
    assert of_descriptor(os.sysconf("SC_OPEN_MAX") + 1) is None


def test_looking_at_a_descriptor_leaves_none(stack: ExitStack) -> None:
    file = stack.enter_context(open("/dev/null")).fileno()
    server = bound(stack, socket.SOCK_STREAM, "127.0.0.1")
    before = os.listdir("/proc/self/fd")
    for fd in (file, server.fileno(), 1 << 20):
        of_descriptor(fd)
    assert os.listdir("/proc/self/fd") == before
    assert server.fileno() >= 0


def test_mapped_address_is_ipv4() -> None:
    with socket.socket(socket.AF_INET6) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(("::ffff:127.0.0.1", 0))
        sock.listen()
        for found in told(sock):
            assert forwards_of(found) == [Forward("tcp", "127.0.0.1", sock.getsockname()[1])]


def of(host: str, *, v6only: bool | None = None, kind: str = "tcp", port: int = 80) -> InetSocket:
    return InetSocket(1, kind, host, port, serves=True, v6only=v6only)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "server,others,hosts",
    [
        (of("127.0.0.2"), [], ["127.0.0.2"]),
        (of("0.0.0.0"), [], ["127.0.0.1"]),
        (of("::1"), [], ["::1"]),
        (of("::", v6only=True), [], ["::1"]),
        (of("::", v6only=False), [of("127.0.0.1")], ["::1", "127.0.0.1"]),
        (of("::"), [], ["::1", "127.0.0.1"]),
        (of("::"), [of("0.0.0.0")], ["::1"]),
        (of("::"), [of("127.0.0.1")], ["::1"]),
        (of("::"), [of("127.0.0.1", port=81), of("127.0.0.1", kind="udp"), of("10.0.0.1")], ["::1", "127.0.0.1"]),
        (of("10.0.0.1"), [], []),
        (of("fe80::1"), [], []),
    ],
)
def test_loopback_addresses_of_a_server(server: InetSocket, others: list[InetSocket], hosts: list[str]) -> None:
    assert forwards_of(server, others) == [Forward("tcp", host, 80) for host in hosts]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_listening_socket_is_at_the_address_closed_on_exec_and_refused_twice(stack: ExitStack, kind: str, host: str) -> None:
    first = stack.enter_context(listen(Forward(kind, host, 0)))  # type: ignore[arg-type]
    found = of_descriptor(first.fileno())
    assert found is not None
    assert (found.kind, found.host, found.serves) == (kind, host, True)
    assert found.v6only in (None, True)
    assert not os.get_inheritable(first.fileno())
    with pytest.raises(OSError, match="in use"):
        listen(Forward(kind, host, found.port))  # type: ignore[arg-type]


def test_forward_is_named_as_people_write_it() -> None:
    assert str(Forward("tcp", "127.0.0.1", 80)) == "TCP 127.0.0.1:80"
    assert str(Forward("udp", "::1", 53)) == "UDP [::1]:53"


def test_descendants_and_their_sockets() -> None:
    code = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    shell = subprocess.Popen(
        ["sh", "-c", '"$0" "$@"; true', sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with shell:
        assert shell.stdout
        port = int(shell.stdout.readline())
        family = descendants([shell.pid])
        assert len(family) == 2
        held = {inode for pid in family for inode in inodes(pid)}
        assert [sock.port for sock in in_tables(held) if sock.serves] == [port]
        assert all(same_network(pid) for pid in family)
        shell.communicate("")
    assert inodes(shell.pid) == set()
    assert not same_network(shell.pid)


def test_links_that_are_no_sockets() -> None:
    assert socket_inode("socket:[123]") == 123
    assert socket_inode("pipe:[123]") is None
