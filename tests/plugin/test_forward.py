"""Servers that wide fixtures run outside answer inside, at the same address, and nothing else of the host does."""

from __future__ import annotations

import socket

import pytest

from tests.support.isolated_runs import EVERY_WAY, run

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

def in_thread(server):
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address
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

def test_by_another_name(request):
    # Not in the closure: not known before the fork.
    pass

@pytest.mark.isolate(forward="none")
def test_not_wanted(http_server):
    with pytest.raises(ConnectionRefusedError):
        get(http_server)

def test_not_asked_for():
    with open(os.environ["OTHER"]) as file:
        port = int(file.read())
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
"""
)


def test_x(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(SUITE)
    done = run(pytester, monkeypatch, "--durations=10", "-vv")
    print(done.output)
    assert not done.failed()
