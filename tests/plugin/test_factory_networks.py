"""Sandboxes of `isolate_factory` on one network: reached by name and address, parted and healed, published."""

from __future__ import annotations

import pytest

from tests.support.isolated_runs import EVERY_WAY, run

SUITE = """
import socket, sys, time
import pytest

NET = {"internal": True}
SERVER = '''
import socket
server = socket.create_server(("", 8080))
while True:
    connection, peer = server.accept()
    connection.sendall(peer[0].encode())
    connection.close()
'''
CLIENT = '''
import socket, sys
with socket.create_connection((sys.argv[1], 8080), timeout=float(sys.argv[2])) as connection:
    print(connection.recv(100).decode())
'''

def python(code, *args):
    return [sys.executable, "-I", "-S", "-c", code, *args]

def get(box, host, timeout="10"):
    done = box.run(python(CLIENT, host, timeout))
    return done.stdout.decode().strip() if done.returncode == 0 else done.stderr.decode().splitlines()[-1]

def get_from_here(host, timeout=10):
    with socket.create_connection((host, 8080), timeout=timeout) as connection:
        return connection.recv(100).decode()

@pytest.fixture(scope="module")
def web(isolate_factory):
    box = isolate_factory("web", net=NET, publish=["8080"])
    box.popen(python(SERVER))
    box.wait_for_port(8080)
    return box

@pytest.fixture(scope="module")
def client(isolate_factory):
    return isolate_factory("client", net=NET)

@pytest.fixture
def other(isolate_factory):
    return isolate_factory("other", net=NET)

both = pytest.mark.parametrize("where", [pytest.param("inside", marks=pytest.mark.isolate(net=NET)), "outside"])

@both
def test_names_and_addresses(where, web, client):
    assert get(client, "web") == get(client, web.ip) == client.ip
    assert web.ip != client.ip and web.address.subnet == client.address.subnet

@pytest.mark.isolate(net=NET)
def test_the_test_itself_is_on_the_network(web, isolate_box):
    assert get_from_here("web") == get_from_here(web.ip) == isolate_box.ip

def test_the_gateway_stays_where_it_is_when_a_sandbox_ends(client):
    begun = time.monotonic()
    assert client.run(python("import socket; print(socket.gethostbyname('web'))")).returncode == 0
    assert time.monotonic() - begun < 4

@both
def test_partition(where, web, client, other):
    web.partition(client)
    assert "timed out" in get(client, "web", "0.5")
    assert "timed out" in get(client, web.ip, "0.5")
    assert get(other, "web") == other.ip
    client.heal(other)
    assert "timed out" in get(client, web.ip, "0.5")
    other.partition(web)
    assert "timed out" in get(other, "web", "0.5")
    web.heal()
    assert get(client, "web") == client.ip
    assert get(other, "web") == other.ip
    client.partition(web)

@both
def test_partition_of_the_test_before_holds_until_it_is_healed(where, web, client):
    assert "timed out" in get(client, web.ip, "0.5")
    client.heal(web)
    assert get(client, web.ip) == client.ip
    client.partition(web)

def test_healed_for_good(web, client):
    client.heal()

@both
def test_partition_ends_with_the_sandbox(where, web, client, isolate_factory):
    address = {"ip": web.address.subnet.replace(".0/24", ".77"), **NET}
    first = isolate_factory("first", net=address)
    web.partition(first)
    assert "timed out" in get(first, "web", "0.5")
    first.kill()
    assert get(isolate_factory("second", net=address), "web") == address["ip"]

@pytest.mark.isolate(net=NET)
def test_partition_from_the_test_itself(web, client, isolate_box):
    web.partition(isolate_box)
    with pytest.raises(TimeoutError):
        get_from_here(web.ip, 0.5)
    assert get(client, "web") == client.ip
    web.heal()
    assert get_from_here("web") == isolate_box.ip
    web.partition(isolate_box)

@pytest.mark.isolate(net=NET)
@pytest.mark.parametrize("n", range(3))
def test_next_tests_are_not_parted(web, n):
    assert get_from_here("web")

@pytest.mark.isolate(net="container:web")
def test_in_its_network(web):
    assert get_from_here("127.0.0.1") == "127.0.0.1"

def test_published(web):
    with socket.create_connection(("127.0.0.1", web.port(8080)), timeout=10) as connection:
        assert connection.recv(100)

@both
def test_paused_server_answers_when_it_is_resumed(where, web, client):
    web.pause()
    assert "timed out" in get(client, "web", "0.5")
    web.resume()
    assert get(client, "web") == client.ip

@both
def test_usage_tells_traffic(where, web, client):
    before = client.usage().net_rx_packets
    get(client, "web")
    assert client.usage().net_rx_packets > before
"""


@EVERY_WAY
def test_sandboxes_on_one_network(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    pytester.makepyfile(SUITE)
    args = ["--dist=loadfile"] if how == "xdist" else []
    run(pytester, monkeypatch, *args, how=how).result.assert_outcomes(passed=21)
