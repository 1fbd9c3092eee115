"""A server and two clients, each in a sandbox of its own, on one network that leads nowhere else.

Look for: the clients reach the server by its name; parted from it, one of them doesn't, and the other still does; paused, the
server answers nobody, and resumed it answers what has waited.
"""

import sys

import pytest

NET = {"internal": True}

SERVER = """
import socket
server = socket.create_server(("", 7000))
while True:
    connection, _ = server.accept()
    with connection:
        connection.sendall(b"hello")
"""

CLIENT = """
import socket, sys
with socket.create_connection(("server", 7000), timeout=float(sys.argv[1])) as connection:
    print(connection.recv(100).decode())
"""


@pytest.fixture(scope="module")
def server(isolate_factory):
    box = isolate_factory("server", net=NET)
    box.popen([sys.executable, "-c", SERVER])
    box.wait_for_port(7000)
    return box


@pytest.fixture
def clients(isolate_factory):
    return [isolate_factory(name, net=NET) for name in ("left", "right")]


def greeted(client, timeout="10"):
    return client.run([sys.executable, "-c", CLIENT, timeout]).stdout == b"hello\n"


@pytest.mark.isolate
def test_everybody_is_greeted(server, clients):
    assert all(greeted(client) for client in clients)


@pytest.mark.isolate
def test_partition_parts_these_two_alone(server, clients):
    left, right = clients
    server.partition(left)
    assert not greeted(left, timeout="0.5")
    assert greeted(right)
    server.heal()
    assert greeted(left)


@pytest.mark.isolate
def test_paused_server_answers_later(server, clients):
    server.pause()
    assert not greeted(clients[0], timeout="0.5")
    server.resume()
    assert greeted(clients[0])
