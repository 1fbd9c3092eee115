"""net="bridge" and the world outside, as root and as an unprivileged user: a namespace plays the host, another one the world."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.callers import PRELUDE as SANDBOXES
from tests.support.capabilities import requires
from tests.support.world import HOST4, HOST6, WORLD4, WORLD6, World

pytestmark = [requires("root", "nft")]

CALLERS = pytest.mark.parametrize(
    "user",
    [pytest.param(False, id="root"), pytest.param(True, id="user", marks=requires("unprivileged-user", "userns", "pasta"))],
)

ASK = """
CODE = '''
import errno, socket, sys
kind = socket.SOCK_DGRAM if sys.argv[3] == "udp" else socket.SOCK_STREAM
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
try:
    with socket.socket(family, kind) as s:
        s.settimeout(3); s.connect((sys.argv[1], int(sys.argv[2])))
        if kind == socket.SOCK_DGRAM: s.send(b"?")
        print(s.recv(100).decode())
except OSError as error: print(errno.errorcode.get(error.errno, type(error).__name__))
'''
def ask(opened, host, port, kind="tcp"):
    return opened.run([PYTHON, "-I", "-S", "-c", CODE, host, str(port), kind], check=True, timeout=30).stdout.decode().strip()
"""


@pytest.fixture
def world() -> Iterator[World]:
    with World() as made:
        yield made


def case(code: str) -> str:
    """`code` with `box` and `POOL`, as in other contract tests."""
    return SANDBOXES.replace("CODE", repr(ASK + code))


@CALLERS
def test_the_world_sees_the_host_s_address(world: World, user: bool) -> None:
    before = world.state()
    told = world.run(
        case(
            f"""
net = {{"mode": "bridge", "ipv6": True}}
with box(net=net, name="a") as one, box(net=net) as two:
    tell([[ask(one, {WORLD4!r}, 80), ask(one, {WORLD4!r}, 80, "udp"), ask(two, {WORLD6!r}, 80)], POOL.notes])
"""
        ),
        user=user,
    )
    answers, notes = told
    assert answers == [HOST4, HOST4, HOST6]
    assert all(note.startswith("bridge networks: ") for note in notes)
    assert bool(notes) is not user  # pasta sets nothing
    world.wait_until_gone("isolate")
    assert world.state() == before


@CALLERS
def test_the_host_s_loopback_is_closed(world: World, user: bool) -> None:
    told = world.run(
        case(
            """
with box(net="bridge") as one:
    tell([ask(one, one.address.gateway, 8080), ask(one, "127.0.0.1", 8080)])
"""
        ),
        user=user,
    )
    assert told == ["ECONNREFUSED", "ECONNREFUSED"]


@CALLERS
def test_whom_it_reached_is_told(world: World, user: bool) -> None:
    told = world.run(
        case(
            f"""
with box(net="bridge") as one:
    ask(one, {WORLD4!r}, 80), ask(one, {WORLD4!r}, 81), ask(one, {WORLD4!r}, 80, "udp")
    found = one.contacts()
    tell([found.reached, found.refused, found.unanswered])
"""
        ),
        user=user,
    )
    assert told[0] == [["tcp", WORLD4, 80], ["udp", WORLD4, 80]]
    assert told[1] == [["tcp", WORLD4, 81]]
    assert told[2] == []


@CALLERS
def test_networks_with_a_way_out_are_closed_to_each_other(world: World, user: bool) -> None:
    told = world.run(
        case(
            f"""
server = "import socket; s = socket.create_server((\\"0.0.0.0\\", 8080)); print(1, flush=True)\\nwhile True: s.accept()[0].close()"
with box(net={{"network": "a"}}) as one, box(net={{"network": "b"}}) as two, box(net={{"network": "c", "internal": True}}) as three:
    process = one.popen([PYTHON, "-I", "-S", "-c", server], stdout=subprocess.PIPE); process.stdout.readline()
    tell([ask(two, one.address.ip, 8080), ask(three, one.address.ip, 8080), ask(three, {WORLD4!r}, 80), ask(two, {WORLD4!r}, 80)])
"""
        ),
        user=user,
    )
    assert told[0] in ("ENETUNREACH", "EHOSTUNREACH")
    assert told[1:] == ["ENETUNREACH", "ENETUNREACH", HOST4]


@CALLERS
def test_ipv6_that_is_asked_for_later_is_opened_for_all(world: World, user: bool) -> None:
    told = world.run(
        case(
            f"""
with box(net={{"network": "four"}}) as four, box(net={{"network": "six", "ipv6": True}}) as six:
    tell([ask(four, {WORLD4!r}, 80), ask(six, {WORLD6!r}, 80), ask(six, {WORLD4!r}, 80)])
"""
        ),
        user=user,
    )
    assert told == [HOST4, HOST6, HOST4]


def test_user_without_pasta_is_told_what_to_install(world: World) -> None:
    world.on_host("for program in pasta passt slirp4netns; do mount --bind /dev/null /usr/bin/$program; done")
    text = world.run(
        case(
            """
try: box(net="bridge").__enter__()
except MissingCapability as error: text = str(error)
with box(net={"internal": True}) as one:
    tell([text, one.address.ip != ""])
"""
        ),
        user=True,
    )
    assert "net needs uplink" in text[0]
    assert "apt install passt" in text[0]
    assert text[1]
