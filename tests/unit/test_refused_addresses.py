"""The hook can't be taken out of a process again, so each test that installs it does so in a forked child."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator

import pytest

from pytest_isolate.model.net import Net
from pytest_isolate.model.spec import Spec
from pytest_isolate.plugin.refusals import Refusals, blocks

NONE = Spec()
TEST_NET = "192.0.2.1"  # RFC 5737: leads nowhere by definition


@pytest.fixture
def refusals() -> Iterator[Refusals]:
    with Refusals() as made:
        yield made


def attempts(refusals: Refusals, body: Callable[[], object]) -> list[str]:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            refusals.install()
            body()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return refusals.collected()


def connect(address: tuple[object, ...] | str | bytes, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM) -> None:
    with socket.socket(family, kind) as sock, contextlib.suppress(OSError):
        sock.setblocking(False)
        sock.connect(address)


def test_connect_send_and_look_up_are_noted_once_each(refusals: Refusals) -> None:
    def body() -> None:
        for _ in range(3):
            connect((TEST_NET, 80))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, contextlib.suppress(OSError):
            udp.sendto(b"x", (TEST_NET, 53))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, contextlib.suppress(OSError):
            udp.sendmsg([b"x"], [], 0, (TEST_NET, 54))
        connect(("2001:db8::1", 443, 0, 0), socket.AF_INET6)
        for ask in (socket.getaddrinfo, lambda host, _port: socket.gethostbyname(host)):
            with contextlib.suppress(OSError):
                ask("name.invalid", 80)

    assert attempts(refusals, body) == [
        f"tcp {TEST_NET}:80",
        f"udp {TEST_NET}:53",
        f"udp {TEST_NET}:54",
        "tcp [2001:db8::1]:443",
        "name name.invalid port 80",
        "name name.invalid",
    ]


def test_what_stays_inside_is_not_noted(refusals: Refusals) -> None:
    def body() -> None:
        connect(("127.0.0.1", 1))
        connect(("127.8.8.8", 1))
        connect(("localhost", 1))
        connect(("0.0.0.0", 1))
        connect(("::1", 1), socket.AF_INET6)
        connect(("::ffff:127.0.0.1", 1), socket.AF_INET6)
        connect(b"\0abstract", socket.AF_UNIX)
        connect("/does/not/exist", socket.AF_UNIX)
        for host in (None, "localhost", os.uname().nodename, "127.0.0.1", TEST_NET):
            with contextlib.suppress(OSError):
                socket.getaddrinfo(host, 80)

    assert attempts(refusals, body) == []


def test_own_unix_server_is_not_noted_and_a_masked_socket_is(refusals: Refusals) -> None:
    def body() -> None:
        with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as server:
            server.bind(f"{directory}/own")
            server.listen()
            connect(f"{directory}/own", socket.AF_UNIX)
        connect("/dev/null", socket.AF_UNIX)

    assert attempts(refusals, body) == ["unix /dev/null (its listener is outside)"]


@pytest.mark.parametrize(
    "address",
    [None, (), ("x",), ("192.0.2.1", "http"), (object(), 80), "text", 7, ("\ud800", 80), ("a" * 5000, 80), ("a\nb", 1)],
)
def test_odd_addresses_meet_the_sockets_own_error(refusals: Refusals, address: object) -> None:
    def error(sock: socket.socket) -> str:
        sock.setblocking(False)
        try:
            sock.connect(address)  # type: ignore[arg-type]
        except Exception as raised:
            return repr(raised)
        return ""

    with socket.socket() as sock:
        plain = error(sock)

    def body() -> None:
        with socket.socket() as sock:
            assert error(sock) == plain

    for line in attempts(refusals, body):
        assert len(line) <= 200


def test_list_is_bounded_in_the_mapping_and_in_the_section(refusals: Refusals) -> None:
    def body() -> None:
        for port in range(1, 3000):
            sys.audit("socket.getaddrinfo", f"host{port}.invalid", port, 0, 0, 0)

    assert 100 < len(attempts(refusals, body)) <= 1000
    section = refusals.section(NONE)
    assert section
    assert len(section[1].splitlines()) < 30
    assert "more" in section[1]


def test_attempts_survive_a_crash_and_come_from_forked_children_too(refusals: Refusals) -> None:
    def body() -> None:
        child = os.fork()
        if child == 0:
            connect((TEST_NET, 81))
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        connect((TEST_NET, 80))
        os.closerange(3, 100)
        connect((TEST_NET, 82))

    assert attempts(refusals, body) == [f"tcp {TEST_NET}:{port}" for port in (81, 80, 82)]
    refusals.clear()
    assert refusals.collected() == []


def test_hook_refused_by_another_audit_hook_changes_nothing(refusals: Refusals) -> None:
    def veto(event: str, _args: object) -> None:
        if event == "sys.addaudithook":
            raise PermissionError

    def body() -> None:
        sys.addaudithook(veto)
        refusals.install()
        connect((TEST_NET, 90))

    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            body()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert refusals.collected() == []


def test_section_names_addresses_and_remedy(refusals: Refusals) -> None:
    refusals.note("tcp 192.0.2.1:80")
    section = refusals.section(NONE, refused_packets=4)
    assert section
    title, text = section
    assert title == "isolate: network refused"
    assert "  tcp 192.0.2.1:80\n" in text
    assert 'remedy: net="host"' in text


def test_packets_of_other_programs_are_said_without_addresses(refusals: Refusals) -> None:
    section = refusals.section(NONE, refused_packets=2)
    assert section
    assert "another program inside tried to reach an address 2 times" in section[1]


def test_network_that_leads_somewhere_has_no_section(refusals: Refusals) -> None:
    refusals.note("tcp 192.0.2.1:80")
    assert refusals.section(Spec(net=Net("host")), 3) is None
    assert blocks(Spec())
    assert not blocks(Spec(net=Net("host")))
