"""What may be typed for net, publish and bandwidth, and what each wrong form is told."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_isolate.model.errors import SpecError
from pytest_isolate.model.net import Bandwidth, Net, Publish
from pytest_isolate.model.parse import parse_key
from pytest_isolate.model.spec import Spec, contradictions


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("none", Net()),
        ("host", Net("host")),
        ("bridge", Net("bridge", network="bridge")),
        ("container:db", Net("container", container="db")),
        ({"mode": "none"}, Net()),
        ({}, Net("bridge", network="bridge")),
        ({"network": "a", "internal": True, "mtu": 1400}, Net("bridge", network="a", internal=True, mtu=1400)),
        ({"subnet": "10.5.0.0/24", "ip": "10.5.0.7"}, Net("bridge", network="bridge", subnet="10.5.0.0/24", ip="10.5.0.7")),
        ({"aliases": ["Db", "db", "primary"], "mac": "02:AA:00:00:00:01"},
         Net("bridge", network="bridge", aliases=("db", "primary"), mac="02:aa:00:00:00:01")),
        ({"ipv6": True}, Net("bridge", network="bridge", ipv6=True)),
    ],
)  # fmt: skip
def test_net_as_object(typed: Any, meant: Net) -> None:
    assert parse_key("net", typed, "/") == meant
    assert parse_key("net", str(meant), "/", text=True) == meant
    assert Net.from_json(meant.to_json()) == meant


@pytest.mark.parametrize(
    ("typed", "complaint"),
    [
        ("bridged", "'bridged' is no network mode"),
        ("container:", "'' is not a sandbox's name"),
        (3, "3 is neither a mode nor a mapping"),
        ({"mode": "none", "ip": "10.0.0.2"}, "'ip' is for bridge networks, and the mode is none"),
        ({"dns": "x"}, "unknown entry 'dns'"),
        ({"network": "a b"}, "'a b' is not a network's name"),
        ({"aliases": ["a..b"]}, "'a..b' is not a host name"),
        ({"aliases": ["a" * 64]}, "is not a host name"),
        ({"internal": "yes"}, "internal: 'yes' is neither True nor False"),
        ({"subnet": "10.5.0.1/24"}, "subnet: 10.5.0.1/24 has host bits set"),
        ({"subnet": "10.5.0.0/30"}, "is not between /8 and /29"),
        ({"subnet": "10.5.0.0/24", "ip": "10.6.0.7"}, "ip 10.6.0.7 is no host address of the subnet 10.5.0.0/24"),
        ({"subnet": "10.5.0.0/24", "ip": "10.5.0.255"}, "is no host address"),
        ({"subnet": "10.5.0.0/24", "ip": "10.5.0.1"}, "ip 10.5.0.1 is the gateway"),
        ({"ip": "fe80::1"}, "ip: 'fe80::1' is not an IPv4 address"),
        ({"aliases": "db"}, "aliases: 'db' is not a list"),
        ({"mac": "02:00"}, "mac: '02:00' is not six octets"),
        ({"mac": "01:00:00:00:00:00"}, "is a multicast address"),
        ({"mtu": 67}, "mtu: 67 is not a number of bytes from 68"),
        ({"mtu": 1279, "ipv6": True}, "from 1280"),
    ],
)
def test_bad_net_is_told(typed: Any, complaint: str) -> None:
    with pytest.raises(SpecError, match=r".*") as caught:
        parse_key("net", typed, "/")
    assert complaint in str(caught.value)


def test_net_entry_given_twice_on_the_command_line() -> None:
    with pytest.raises(SpecError, match="gives 'network' twice"):
        parse_key("net", "bridge,network=a,network=b", "/", text=True)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("80", Publish(80)),
        (80, Publish(80)),
        ("8080:80", Publish(80, 8080)),
        (":80", Publish(80)),
        ("53:53/udp", Publish(53, 53, protocol="udp")),
        ("127.0.0.2::80/udp", Publish(80, 0, "127.0.0.2", "udp")),
        ("0.0.0.0:1:80", Publish(80, 1, "0.0.0.0")),
        ("[::1]:8080:80", Publish(80, 8080, "::1")),
        ("[::1]::80", Publish(80, 0, "::1")),
    ],
)
def test_publish(typed: Any, meant: Publish) -> None:
    assert parse_key("publish", [typed], "/") == (meant,)
    assert parse_key("publish", [str(meant)], "/", text=True) == (meant,)


@pytest.mark.parametrize(
    ("typed", "complaint"),
    [
        ("8080:80", "'8080:80' is not a list"),
        (["0"], "no program listens on port 0"),
        (["8080:80/sctp"], "'sctp' is neither tcp nor udp"),
        (["1:2:3:4"], "is not [[HOST_IP:][HOST_PORT]:]PORT[/PROTOCOL]"),
        (["65536"], "'65536' is not a port"),
        (["localhost:1:2"], "'localhost' is not an IP address"),
        (["x"], "'x' is not a port"),
        ([True], "True is no port"),
        (["[::1]80"], "is not [[HOST_IP:]"),
        (["8080:80", "8080:81"], "host port 8080/tcp is given twice"),
    ],
)
def test_bad_publish_is_told(typed: Any, complaint: str) -> None:
    with pytest.raises(SpecError, match=r".*") as caught:
        parse_key("publish", typed, "/")
    assert complaint in str(caught.value)


def test_the_same_host_port_for_two_protocols() -> None:
    assert len(parse_key("publish", ["53:53", "53:53/udp"], "/")) == 2


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("10mbit", Bandwidth(rx=10_000_000, tx=10_000_000)),
        (64000, Bandwidth(rx=64000, tx=64000)),
        ({"rx": "1Gbit", "delay": "20ms"}, Bandwidth(rx=10**9, delay=0.02)),
        ({"tx": "8kibit", "delay": "1s", "jitter": "5ms", "loss": "1%"}, Bandwidth(tx=8192, delay=1.0, jitter=0.005, loss=0.01)),
    ],
)
def test_bandwidth(typed: Any, meant: Bandwidth) -> None:
    assert parse_key("bandwidth", typed, "/") == meant
    assert parse_key("bandwidth", str(meant), "/", text=True) == meant
    assert meant.emulates == (meant.delay is not None)


@pytest.mark.parametrize(
    ("typed", "complaint"),
    [
        ("10MB/s", "is not a quantity"),
        ("10mb", "unknown unit 'mb'"),
        ("1kbit", "less than 8kbit"),
        ("11tbit", "more than any link has"),
        ({}, "asks for nothing"),
        ({"rate": 1}, "unknown entry 'rate'"),
        ({"loss": "100%"}, "loss: '100%' is not more than 0% and less than 100%"),
        ({"loss": "1x"}, "loss: unknown unit 'x'"),
        ({"jitter": "1ms"}, "jitter varies a delay"),
    ],
)
def test_bad_bandwidth_is_told(typed: Any, complaint: str) -> None:
    with pytest.raises(SpecError, match=r".*") as caught:
        parse_key("bandwidth", typed, "/")
    assert complaint in str(caught.value)


def test_what_needs_a_bridge_contradicts_the_other_modes() -> None:
    spec = Spec(publish=(Publish(80, 8080),), bandwidth=Bandwidth(rx=8000))
    assert [error.key for error in contradictions(spec)] == ["net+publish", "bandwidth+net"]
    assert not contradictions(Spec(net=Net("bridge", network="bridge"), publish=(Publish(80),), bandwidth=Bandwidth(rx=8000)))
