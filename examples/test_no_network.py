"""`net="none"`, the default of a bare marker.

Look for: nothing outside answers, at once and not after a time-out; the loopback works, and port 8080 is free in every test.
"""

import errno
import socket
from contextlib import closing
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

pytestmark = pytest.mark.isolate(net="none")


def test_nothing_outside_can_be_reached():
    with socket.socket() as client, pytest.raises(OSError, match="unreachable") as caught:
        client.connect(("192.0.2.1", 80))  # an address for documentation: RFC 5737
    assert caught.value.errno == errno.ENETUNREACH


def test_the_only_interface_is_the_loopback():
    assert [name for _index, name in socket.if_nameindex()] == ["lo"]


class Hello(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *args):
        pass


@pytest.mark.parametrize("run", [1, 2])
def test_a_server_on_a_fixed_port(run):
    with HTTPServer(("127.0.0.1", 8080), Hello) as server:
        Thread(target=server.handle_request).start()
        with closing(HTTPConnection("127.0.0.1", 8080)) as client:
            client.request("GET", "/")
            assert client.getresponse().read() == b"hello"
