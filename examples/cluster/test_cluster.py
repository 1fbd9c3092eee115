"""Servers that depend on each other, on a network of their own: replication, a partition, a slow link, a published port.

Look for: the servers start once for the module and end with it; every test below talks to real processes at real addresses.
"""

import socket
import time
import urllib.request

import pytest

SHOP = {"network": "shop", "internal": True}


def eventually(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.05)


def test_what_the_primary_is_told_reaches_the_replica(primary, replica, redis):
    assert redis(primary, "SET", "cart", "apples") == "OK"
    eventually(lambda: redis(replica, "GET", "cart") == "apples")


def test_a_partition_is_noticed_and_made_up_for(primary, replica, redis):
    eventually(lambda: "master_link_status:up" in redis(replica, "INFO", "replication"))
    primary.partition(replica)
    redis(primary, "SET", "cart", "pears")
    eventually(lambda: "master_link_status:down" in redis(replica, "INFO", "replication"))
    assert redis(replica, "GET", "cart") != "pears"
    primary.heal()
    eventually(lambda: redis(replica, "GET", "cart") == "pears")


def test_a_paused_replica_catches_up(primary, replica, redis):
    replica.pause()
    redis(primary, "SET", "cart", "plums")
    replica.resume()
    eventually(lambda: redis(replica, "GET", "cart") == "plums")


def test_the_published_port_is_fetched_from_the_host(primary, web, redis):
    redis(primary, "SET", "cart", "cherries")

    def served():
        with urllib.request.urlopen(f"http://127.0.0.1:{web.port(8080)}/", timeout=10) as answer:
            return answer.read()

    eventually(lambda: served() == b"cherries")


@pytest.mark.isolate(net=SHOP)
def test_a_sandboxed_client_finds_the_servers_by_name(primary, web, isolate_box):
    with socket.create_connection(("primary", 6379), timeout=10) as connection:
        connection.sendall(b"CLIENT INFO\r\n")
        assert f"addr={isolate_box.ip}:" in connection.recv(4096).decode()
    with urllib.request.urlopen("http://web:8080/", timeout=10) as answer:
        assert answer.status == 200


@pytest.mark.isolate(net=SHOP, bandwidth="2mbit")
def test_a_slow_link_slows_this_client_alone(web):
    begun = time.monotonic()
    with urllib.request.urlopen("http://web:8080/large", timeout=60) as answer:
        assert len(answer.read()) == 600_000
    assert time.monotonic() - begun > 1.5  # 600 kB at 250 kB a second take 2.4 s
