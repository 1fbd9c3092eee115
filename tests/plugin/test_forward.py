"""Servers that wide fixtures run outside answer inside, at the same address, and nothing else of the host does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.capabilities import requires
from tests.support.isolated_runs import EVERY_WAY, ROOT, run
from tests.support.remains import forwarders_of

TITLE = "isolate: fixtures set up outside"

SERVERS = """
import asyncio, http.client, http.server, os, pytest, socket, socketserver, subprocess, sys, threading, time, urllib.request

class Quiet(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = b"%d %s" % (os.getpid(), self.path.encode())
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass

ALIVE = []

def in_thread(server):
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    ALIVE.append(server.server_address)
    yield server.server_address
    ALIVE.remove(server.server_address)
    server.shutdown()
    thread.join()
    server.server_close()

@pytest.fixture(scope="session")
def http_server():
    yield from in_thread(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet))

@pytest.fixture(scope="session")
def child_server():
    code = "import http.server as h; s = h.HTTPServer(('127.0.0.1', 0), h.SimpleHTTPRequestHandler); print(s.server_port, flush=True); s.serve_forever()"
    # A shell between: the server is a grandchild.
    child = subprocess.Popen(["sh", "-c", '"$0" "$@"; true', sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, process_group=0)
    yield "127.0.0.1", int(child.stdout.readline())
    os.killpg(child.pid, 9)
    child.wait()
    child.stdout.close()

@pytest.fixture(scope="session")
def udp_server():
    class Echo(socketserver.BaseRequestHandler):
        def handle(self):
            data, sock = self.request
            sock.sendto(b"re: " + data, self.client_address)
    yield from in_thread(socketserver.UDPServer(("127.0.0.1", 0), Echo))

@pytest.fixture(scope="module")
def wildcard_server():
    yield from in_thread(http.server.ThreadingHTTPServer(("0.0.0.0", 0), Quiet))

@pytest.fixture(scope="session")
def ipv6_server():
    class Server(http.server.ThreadingHTTPServer):
        address_family = socket.AF_INET6
    yield from in_thread(Server(("::1", 0), Quiet))

@pytest.fixture(scope="session")
def dual_stack_server():
    class Server(http.server.ThreadingHTTPServer):
        address_family = socket.AF_INET6
    yield from in_thread(Server(("::", 0), Quiet))

@pytest.fixture(scope="class")
def asyncio_server():
    loop = asyncio.new_event_loop()
    async def echo(reader, writer):
        writer.write(await reader.read())  # up to the end that the client sends
        await writer.drain()
        writer.close()
    server = loop.run_until_complete(asyncio.start_server(echo, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield server.sockets[0].getsockname()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    server.close()
    loop.close()

@pytest.fixture(scope="module", params=["first", "second"])
def param_server(request):
    yield from in_thread(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet))

@pytest.fixture(scope="session")
def late_server():
    port = []
    def later():
        time.sleep(0.1)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
        port.append(server.server_port)
        server.handle_request()
        server.server_close()
    thread = threading.Thread(target=later)
    thread.start()
    yield port
    thread.join()

@pytest.fixture
def port_known(late_server):
    return late_server[0]

@pytest.fixture(scope="session")
def waited(late_server):
    while not late_server:
        time.sleep(0.01)

@pytest.fixture
def own_server():
    yield from in_thread(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet))

def get(address, path="/"):
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    with urllib.request.urlopen(f"http://{host}:{address[1]}{path}", timeout=10) as answer:
        return answer.read()
"""

SUITE = (
    SERVERS
    + """
import pytest
pytestmark = pytest.mark.isolate
PYTEST = os.getpid()

def test_thread(http_server):
    assert get(http_server) == b"%d /" % PYTEST
    assert os.getpid() != PYTEST

def test_next_test_too(http_server):
    assert get(http_server) == b"%d /" % PYTEST

def test_grandchild(child_server):
    assert b"<html" in get(child_server)

def test_udp(udp_server):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.connect(udp_server)
        for word in (b"one", b"two"):
            sock.send(word)
            assert sock.recv(100) == b"re: " + word

@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_wildcard(wildcard_server, host):
    assert get((host, wildcard_server[1])) == b"%d /" % PYTEST

def test_ipv6(ipv6_server):
    assert get(ipv6_server[:2]) == b"%d /" % PYTEST

def test_ipv6_server_alone(ipv6_server):
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", ipv6_server[1]))

@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_dual_stack(dual_stack_server, host):
    assert get((host, dual_stack_server[1])) == b"%d /" % PYTEST

class TestAsyncio:
    def test_half_close(self, asyncio_server):
        with socket.create_connection(asyncio_server, timeout=10) as sock:
            sock.sendall(b"all of it")
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(100) == b"all of it"
            assert sock.recv(100) == b""

def test_parametrised(param_server):
    assert get(param_server) == b"%d /" % PYTEST

def test_late(waited, port_known):
    assert get(("127.0.0.1", port_known)) == b"%d /" % PYTEST

def test_own_server_runs_inside(own_server):
    assert get(own_server) == b"%d /" % os.getpid()

def test_keep_alive_and_much_data(http_server):
    conn = http.client.HTTPConnection(*http_server, timeout=20)
    local = set()
    for size in (1, 10_000_000, 1):
        conn.request("POST", "/", body=bytes(size))
        assert conn.getresponse().read() == bytes(size)
        local.add(conn.sock.getsockname())
    assert len(local) == 1
    conn.close()

@pytest.mark.isolate(forward="none")
def test_not_wanted(http_server):
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(http_server)

@pytest.mark.isolate(fixtures="inside")
def test_inside(http_server):
    assert get(http_server) == b"%d /" % os.getpid()

@pytest.mark.isolate(net="host")
def test_host(http_server, child_server, ipv6_server):
    for server in (http_server, child_server, ipv6_server[:2]):
        assert get(server)

def test_nothing_else(http_server):
    # The session's other servers are alive outside, and this test doesn't ask for them.
    others = [address for address in ALIVE if address != http_server]
    assert len(others) >= 3
    for address in others:
        with socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET) as sock:
            with pytest.raises(ConnectionRefusedError):
                sock.connect(address)
"""
)


@EVERY_WAY
def test_servers_of_wide_fixtures_answer_inside_and_no_others_do(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    pytester.makepyfile(SUITE)
    options = ["--dist", "loadfile"] if how == "xdist" else []
    done = run(pytester, monkeypatch, *options, how=how)
    assert not done.failed(), done.output
    assert {report.name for report in done} >= {
        "test_udp",
        "test_dual_stack[::1]",
        "TestAsyncio::test_half_close",
        "test_nothing_else",
    }


@EVERY_WAY
def test_failing_test_is_told_what_it_could_reach_and_what_not(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    pytester.makepyfile(
        SERVERS
        + """
@pytest.fixture(scope="session")
def client_too(http_server, tmp_path_factory):
    unix = socket.socket(socket.AF_UNIX)
    unix.bind("\\0only outside %d" % os.getpid())
    with socket.create_connection(http_server) as client, unix:
        yield http_server

@pytest.mark.isolate
def test_server(http_server):
    print(http_server[1])
    assert 0

@pytest.mark.isolate
def test_child(child_server):
    assert 0

@pytest.mark.isolate
def test_client(client_too):
    assert 0

@pytest.mark.isolate(forward="none")
def test_unwanted(http_server):
    assert 0
"""
    )
    done = run(pytester, monkeypatch, how=how)

    server = done.of("test_server", "call").section(TITLE)
    assert "thread 'Thread-" in server
    assert "  forwarded, so reachable inside: TCP 127.0.0.1:" in server
    assert "listening" not in server
    assert "network" not in server

    child = done.of("test_child", "call").section(TITLE)
    assert "child process" in child
    assert "  forwarded, so reachable inside: TCP 127.0.0.1:" in child
    assert "network" not in child

    client = done.of("test_client", "call").section(TITLE)
    assert "connected to 127.0.0.1:" in client
    assert "UNIX socket @only outside" in client
    assert "sockets belong to another network" in client
    assert 'net="host"' in client
    assert "forward=" not in client

    unwanted = done.of("test_unwanted", "call").section(TITLE)
    assert "TCP socket listening on 127.0.0.1:" in unwanted
    assert "forwarded, so" not in unwanted
    assert 'forward="fixtures"' in unwanted


@requires("root")  # to listen on a port below 1024
def test_address_that_cant_be_had_inside_is_told_in_a_failing_test_only(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(
        """
        import pytest, socket

        @pytest.fixture(scope="session")
        def privileged():
            for port in range(1023, 600, -1):
                try:
                    server = socket.create_server(("127.0.0.1", port))
                except OSError:
                    continue
                with server:
                    yield port
                return

        pytestmark = pytest.mark.isolate(user="65534")

        def test_passes(privileged):
            with socket.socket() as sock, pytest.raises(ConnectionRefusedError):
                sock.connect(("127.0.0.1", privileged))

        def test_fails(privileged):
            assert 0
        """
    )
    done = run(pytester, monkeypatch)
    assert done.failed() == {("test_fails", "call")}, done.output
    text = done.of("test_fails", "call").section("isolate: not forwarded")
    assert re.fullmatch(
        r"TCP 127\.0\.0\.1:\d+ of session fixture 'privileged': can't listen there: Permission denied\nremedy: .*", text
    ), text
    assert "TCP socket listening on 127.0.0.1:" in done.of("test_fails", "call").section(TITLE)


LEFT = r"""
import os

def pytest_runtest_logfinish(nodeid):
    links = sorted(os.readlink(f"/proc/self/fd/{fd}") if os.path.exists(f"/proc/self/fd/{fd}") else "" for fd in os.listdir("/proc/self/fd"))
    print(f"\n{nodeid.partition('::')[2]} has {len(links)} descriptors", flush=True)

def pytest_unconfigure():
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        words = [open(f"/proc/{pid}/cmdline").read() for pid in file.read().split()]
    print("forwarders at the end:", sum("network.forwarder" in word for word in words))
"""


def test_descriptors_stay_as_many_and_the_forwarder_ends_with_the_run(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makeconftest(LEFT)
    pytester.makepyfile(
        SERVERS
        + """
@pytest.mark.isolate
@pytest.mark.parametrize("number", range(40))
def test_many(http_server, udp_server, child_server, number):
    before = {os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")}
    assert not any("isolate-forwarder" in link for link in before)
    assert get(http_server)
    keep = socket.create_connection(http_server)  # and is gone with the test
"""
    )
    done = run(pytester, monkeypatch, "-s")
    assert not done.failed(), done.output
    counts = [int(found) for found in re.findall(r"test_many\[\d+\] has (\d+) descriptors", done.output)]
    assert len(counts) == 40
    assert min(counts[:20]) == min(counts[20:-1])  # a thread of the server may not have closed its connection yet
    assert "forwarders at the end: 0" in done.output


def test_server_sees_what_the_test_sent_last_and_the_end_of_its_connection(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(
        """
        import pytest, socket, threading

        @pytest.fixture(scope="module")
        def recorder():
            got = []
            def serve():
                for _ in range(10):
                    conn = server.accept()[0]
                    with conn:
                        while data := conn.recv(100):
                            got.append(data)
                        got.append(b"end")
            with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
                udp.bind(("127.0.0.1", 0))
                udp.setblocking(False)
                thread = threading.Thread(target=serve)
                thread.start()
                yield server.getsockname(), udp.getsockname()
                thread.join(20)
                assert got == [b"last words", b"end"] * 10
                assert [udp.recv(100) for _ in range(10)] == [b"datagram"] * 10

        @pytest.mark.isolate
        @pytest.mark.parametrize("number", range(10))
        def test_sends(recorder, number):
            tcp, udp = recorder
            global kept
            kept = socket.create_connection(tcp)
            kept.sendall(b"last words")
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"datagram", udp)
        """
    )
    done = run(pytester, monkeypatch, "-p", "no:unraisableexception")
    assert not done.failed(), done.output


def test_fixture_that_asks_for_a_server_by_name_passes_it_on(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(
        SERVERS
        + """
@pytest.fixture(scope="session")
def address(request):
    return request.getfixturevalue("http_server")

@pytest.mark.isolate
def test_one(address):
    assert get(address)

@pytest.fixture(scope="module")
def overridden():
    yield from in_thread(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet))

class TestOverride:
    @pytest.fixture(scope="class")
    def overridden(self, overridden):
        return overridden

    @pytest.mark.isolate
    def test_it(self, overridden):
        assert get(overridden)
"""
    )
    done = run(pytester, monkeypatch)
    assert not done.failed(), done.output


@EVERY_WAY
def test_every_network_of_its_own_has_them(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Also where tests share a network one after the other: the address is free again when the next one begins."""
    pytester.makepyfile(
        SERVERS
        + """
@pytest.fixture(scope="session")
def box(isolate_factory):
    return isolate_factory(name="box")

@pytest.mark.isolate(net="container:box")
@pytest.mark.parametrize("number", range(5))
def test_container(box, http_server, udp_server, number):
    assert get(http_server)

@pytest.mark.isolate(net={"internal": True})
@pytest.mark.parametrize("number", range(2))
def test_bridge(http_server, number):
    assert get(http_server)
    assert [name for _, name in socket.if_nameindex()] == ["lo", "eth0"]
"""
    )
    done = run(pytester, monkeypatch, how=how)
    assert not done.failed(), done.output
    done.result.assert_outcomes(passed=7)


def test_server_on_the_event_loop_of_the_tests(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread runs it outside: the copy of the loop that the test has accepts what comes back through the forwarder."""
    pytester.makepyfile(
        """
        import asyncio, os, pytest, pytest_asyncio

        @pytest_asyncio.fixture(scope="session", loop_scope="session")
        async def server():
            async def echo(reader, writer):
                writer.write(b"%d " % os.getpid() + await reader.readline())
                await writer.drain()
                writer.close()
            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            yield server.sockets[0].getsockname()
            server.close()

        @pytest.mark.isolate(timeout="20s")
        @pytest.mark.asyncio(loop_scope="session")
        @pytest.mark.parametrize("number", range(2))
        async def test_it(server, number):
            reader, writer = await asyncio.open_connection(*server)
            writer.write(b"line\\n")
            assert await reader.read() == b"%d line\\n" % os.getpid()
            writer.close()
        """
    )
    done = run(pytester, monkeypatch, "-p", "pytest_asyncio.plugin")
    assert not done.failed(), done.output
    assert len({report.name for report in done}) == 2


def test_forwarder_that_is_killed_costs_one_test_its_servers(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makeconftest(
        """
        import os, signal

        def pytest_runtest_logfinish(nodeid):
            if "test_first" in nodeid:
                with open(f"/proc/self/task/{os.getpid()}/children") as file:
                    for pid in map(int, file.read().split()):
                        if "network.forwarder" in open(f"/proc/{pid}/cmdline").read():
                            os.kill(pid, signal.SIGKILL)
                            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
                            print("killed")
        """
    )
    pytester.makepyfile(
        SERVERS
        + """
@pytest.mark.isolate
def test_first(http_server):
    assert get(http_server)

@pytest.mark.isolate
def test_second(http_server):
    assert get(http_server)
"""
    )
    done = run(pytester, monkeypatch, "-s")
    assert "killed" in done.output
    assert not done.failed(), done.output


@requires("root")
def test_pytest_killed_takes_the_forwarder_along(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_suite.py").write_text(
        SERVERS
        + """
@pytest.mark.isolate
def test_it(http_server, tmp_path_factory):
    assert get(http_server)
    open("reached", "w").close()
    time.sleep(60)
"""
    )
    options = ["-p", "pytest_isolate.plugin", "-p", "no:cacheprovider", "--isolate-writable=.", f"--basetemp={tmp_path / 'base'}"]
    env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-m", "pytest", *options], cwd=tmp_path, env=env, stdout=subprocess.DEVNULL)
    try:
        found = until(lambda: (tmp_path / "reached").exists() and forwarders_of(process.pid))
        assert found
    finally:
        process.kill()
        process.wait()
    pidfd_gone = until(lambda: not any(os.path.exists(f"/proc/{pid}/fd/0") for pid in found))
    assert pidfd_gone


def until(what: Callable[[], Any]) -> Any:
    end = time.monotonic() + 20
    while not (value := what()) and time.monotonic() < end:
        time.sleep(0.02)
    return value
