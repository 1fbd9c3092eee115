"""net="bridge" between sandboxes of a run, as root and as an unprivileged user: real servers and clients on internal networks."""

from __future__ import annotations

import ipaddress
import re

from tests.support.callers import Caller, caller
from tests.support.capabilities import why_missing

__all__ = ["caller"]

SERVER = """
def serve(opened, address="0.0.0.0", port=8080, family="AF_INET"):
    # A server that answers each connection with its peer's address.
    code = f'''
import socket
s = socket.create_server(({address!r}, {port}), family=socket.{family})
print("up", flush=True)
while True:
    c, peer = s.accept()
    c.sendall(peer[0].encode()); c.close()
'''
    process = opened.popen([PYTHON, "-I", "-S", "-c", code], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"up\\n"
    return process

def ask(opened, host, port=8080, timeout=5):
    code = f'''
import errno, socket
try:
    with socket.create_connection(({host!r}, {port}), timeout={timeout}) as s:
        print(s.makefile().read())
except TimeoutError: print("timeout")
except socket.gaierror as error: print("gaierror")
except OSError as error: print(errno.errorcode.get(error.errno, error))
'''
    return opened.run([PYTHON, "-I", "-S", "-c", code], check=True, timeout=60).stdout.decode().strip()

INTERNAL = {"internal": True}
"""


def test_sandboxes_reach_each_other_by_address_and_by_name(caller: Caller) -> None:
    told = caller.run(
        SERVER
        + """
with box(name="web", net={**INTERNAL, "aliases": ["www"]}, hostname="front") as web, box(net=INTERNAL) as client:
    serve(web)
    tell([client.address.ip, web.address.subnet, [ask(client, host) for host in (web.address.ip, "web", "www", "front", "nobody")]])
"""
    )
    ip, subnet, answers = told
    assert ipaddress.ip_address(ip) in ipaddress.ip_network(subnet)
    assert answers == [ip, ip, ip, ip, "gaierror"]


def test_an_internal_network_leads_nowhere_outside(caller: Caller) -> None:
    interfaces, answer, routes = caller.run(
        SERVER
        + """
with box(net=INTERNAL) as one:
    names = one.run([PYTHON, "-I", "-S", "-c", "import socket; print(*[name for _, name in socket.if_nameindex()])"], check=True)
    routes = one.run(["cat", "/proc/net/route"]).stdout.decode().splitlines()[1:]
    tell([names.stdout.decode().split(), ask(one, "192.0.2.1"), len(routes)])
"""
    )
    assert interfaces == ["lo", "eth0"]
    assert answer == "ENETUNREACH"
    assert routes == 1  # the subnet


def test_networks_of_a_run_are_closed_to_each_other(caller: Caller) -> None:
    answers = caller.run(
        SERVER
        + """
with box(name="a", net={"network": "left", **INTERNAL}) as a, box(net={"network": "right", **INTERNAL}) as b:
    serve(a)
    tell([ask(b, a.address.ip, timeout=1), ask(b, "a"), a.address.subnet != b.address.subnet, ask(b, a.address.gateway, 53, timeout=1)])
"""
    )
    assert answers[0] in ("ENETUNREACH", "EHOSTUNREACH")
    assert answers[1:3] == ["gaierror", True]


def test_fixed_address_mac_and_mtu(caller: Caller) -> None:
    told = caller.run(
        """
spec = {"network": "fixed", "subnet": "10.77.1.0/24", "ip": "10.77.1.9", "mac": "02:00:00:00:00:09", "mtu": 1400, **{"internal": True}}
found = []
for _ in range(3):  # one after the other with the same address
    with box(net=spec) as one:
        code = "print(open('/sys/class/net/eth0/address').read().strip(), open('/sys/class/net/eth0/mtu').read().strip())"
        found.append([one.address.ip, *one.run([PYTHON, "-I", "-S", "-c", code], check=True).stdout.decode().split()])
tell(found)
"""
    )
    assert told == [["10.77.1.9", "02:00:00:00:00:09", "1400"]] * 3


def test_ipv6(caller: Caller) -> None:
    ip6, answers = caller.run(
        SERVER
        + """
net = {"network": "six", "ipv6": True, **INTERNAL}
with box(name="web", net=net) as web, box(net=net) as client:
    serve(web, "::", family="AF_INET6")
    tell([client.address.ip6, [ask(client, web.address.ip6), ask(client, "web")]])
"""
    )
    assert ipaddress.ip_address(ip6).is_private
    assert answers[0] == ip6
    assert answers[1] == ip6


def test_partition_loses_packets_silently_until_it_is_healed(caller: Caller) -> None:
    told = caller.run(
        SERVER
        + """
with box(name="a", net=INTERNAL) as a, box(net=INTERNAL) as b, box(net=INTERNAL) as c:
    serve(a)
    before = ask(b, "a") == b.address.ip
    a.cut(b)
    during = [ask(b, "a", timeout=1), ask(c, "a") == c.address.ip]
    a.mend(b)
    tell([before, during, ask(b, "a") == b.address.ip])
"""
    )
    assert told == [True, ["timeout", True], True]


def test_ports_are_published_on_the_host(caller: Caller) -> None:
    told = caller.run(
        SERVER
        + """
def fetch(host, port, family=socket.AF_INET):
    with socket.socket(family) as s:
        s.settimeout(5)
        s.connect((host, port))
        return s.makefile().read()

with box(net=INTERNAL, publish=["8080", "127.0.0.2::8080"]) as web:
    serve(web)
    answers = [fetch(*web.ports[8080, "tcp"])]
    host, port = web.ports[8080, "tcp"]
    gateway = web.address.gateway
time.sleep(0.5)
try: fetch(host, port); after = "answered"
except OSError as error: after = type(error).__name__
tell([answers, gateway, after])
"""
    )
    answers, gateway, after = told
    assert answers == [gateway]
    assert after == "ConnectionRefusedError"


def test_a_fixed_host_port_serves_one_sandbox_after_the_other(caller: Caller) -> None:
    told = caller.run(
        SERVER
        + """
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0)); port = probe.getsockname()[1]
answers = []
for _ in range(3):
    with box(net=INTERNAL, publish=[f"{port}:8080"]) as web:
        serve(web)
        answers.append(bool(socket.create_connection(("127.0.0.1", port)).makefile().read()))
with socket.create_server(("127.0.0.1", port)):
    try:
        box(net=INTERNAL, publish=[f"{port}:8080"]).__enter__()
    except SetupError as error:
        refused = str(error)
tell([answers, refused.replace(str(port), "PORT")])
"""
    )
    answers, refused = told
    assert answers == [True] * 3
    assert "publish 127.0.0.1:PORT:8080/tcp: EADDRINUSE" in refused
    assert "another program listens there" in refused


def test_udp_port_is_published(caller: Caller) -> None:
    assert (
        caller.run(
            """
code = '''
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("0.0.0.0", 53)); print("up", flush=True)
while True:
    data, peer = s.recvfrom(100); s.sendto(data.upper(), peer)
'''
with box(net={"internal": True}, publish=["53/udp"]) as web:
    process = web.popen([PYTHON, "-I", "-S", "-c", code], stdout=subprocess.PIPE)
    process.stdout.readline()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(5)
        s.sendto(b"hello", web.ports[53, "udp"])
        tell(s.recv(100).decode())
"""
        )
        == "HELLO"
    )


def test_traffic_is_counted(caller: Caller) -> None:
    usage = caller.run(
        SERVER
        + """
with box(name="a", net=INTERNAL) as a, box(net=INTERNAL) as b:
    serve(a)
    for _ in range(10): ask(b, "a")
    used = b.usage()
    tell([used.net_rx_bytes, used.net_tx_bytes, used.net_rx_packets, used.net_tx_packets, used.net_dropped_packets])
"""
    )
    assert usage[0] > 1000
    assert usage[1] > 1000
    assert usage[2] > 50
    assert usage[3] > 50


def test_a_hundred_sandboxes_on_one_bridge(caller: Caller) -> None:
    assert caller.run(
        SERVER
        + """
from contextlib import ExitStack
with ExitStack() as stack:
    boxes = [stack.enter_context(box(net=INTERNAL)) for _ in range(100)]
    serve(boxes[0])
    tell([len({opened.address.ip for opened in boxes}), ask(boxes[99], boxes[0].address.ip) == boxes[99].address.ip])
"""
    ) == [100, True]


def test_an_exhausted_subnet_is_named(caller: Caller) -> None:
    text, again = caller.run(
        """
from contextlib import ExitStack
net = {"network": "small", "subnet": "10.77.2.0/29", "internal": True}
with ExitStack() as stack:
    for _ in range(5): stack.enter_context(box(net=net))
    try: box(net=net).__enter__()
    except SetupError as error: text = str(error)
with box(net=net) as one:
    again = one.address.ip
tell([text, again])
"""
    )
    assert "take an address small: all 5 addresses of 10.77.2.0/29 are in use" in text
    assert again.startswith("10.77.2.")


def test_what_contradicts_the_network_s_first_user_is_refused(caller: Caller) -> None:
    texts = caller.run(
        """
texts = []
with box(net={"network": "n", "internal": True}) as one:
    for other in ({"network": "n", "internal": True, "ipv6": True}, {"network": "n"}, {"network": "n", "internal": True, "ip": "192.0.2.1"},
                  {"network": "n", "internal": True, "ip": one.address.gateway}, {"network": "n", "internal": True, "ip": one.address.ip}):
        try: box(net=other).__enter__()
        except SetupError as error: texts.append(str(error))
tell(texts)
"""
    )
    assert "join network n: it was made with ipv6=False, and ipv6=True is asked for" in texts[0]
    assert "it was made with internal=True, and internal=False is asked for" in texts[1]
    assert "it is no host address of network 'n'" in texts[2]
    assert "it is no host address of network 'n'" in texts[3]
    assert "EADDRINUSE" in texts[4]


def test_hardware_address_has_one_holder_at_a_time(caller: Caller) -> None:
    texts, again, answer = caller.run(
        SERVER
        + """
net = {"network": "n", "internal": True, "mac": "02:00:00:00:00:01"}
texts = []
with box(net=net) as one, box(net={**net, "network": "other"}):
    gateway = "02:49:" + ":".join(f"{int(octet):02x}" for octet in one.address.gateway.split("."))
    for mac in (one.address.mac.upper(), gateway, gateway[:-2] + "77"):
        try: box(net={**net, "mac": mac}).__enter__()
        except SetupError as error: texts.append(str(error))
with box(net={"network": "n", "internal": True}) as client, box(net=net) as two:
    serve(two)
    tell([texts, two.address.mac, ask(client, two.address.ip) == client.address.ip])
"""
    )
    assert "take a hardware address 02:00:00:00:00:01: EADDRINUSE" in texts[0]
    assert "another sandbox has it on network 'n'" in texts[0]
    assert "it is the gateway's on network 'n'" in texts[1]
    assert re.search(r"it belongs to [0-9.]+\.119 on network 'n'", texts[2])
    assert again == "02:00:00:00:00:01"
    assert answer


def test_joining_a_sandbox_on_a_bridge_shares_its_address(caller: Caller) -> None:
    same, answer = caller.run(
        SERVER
        + """
with box(name="web", net=INTERNAL) as web, box(net="container:web") as sidecar, box(net=INTERNAL) as client:
    serve(sidecar)
    tell([sidecar.address == web.address, ask(client, "web") == client.address.ip])
"""
    )
    assert same
    assert answer


def test_the_gateway_keeps_its_hardware_address_while_sandboxes_come_and_go(caller: Caller) -> None:
    # The bridge of which one has the lowest hardware address; a lower one comes, and goes.
    addresses = caller.run(
        """
CODE = '''
import socket, sys
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", (sys.argv[1], 9))
for _ in range(200):
    for line in open("/proc/net/arp"):
        if line.startswith(sys.argv[1] + " ") and "00:00:00:00:00:00" not in line: print(line.split()[3]); raise SystemExit
'''
def gateway(opened):
    return opened.run([PYTHON, "-I", "-S", "-c", CODE, opened.address.gateway], check=True).stdout.decode().strip()
found = []
net = {"internal": True}
with box(net=net) as one:
    found.append(gateway(one))
    with box(net={**net, "mac": "02:00:00:00:00:01"}):
        with box(net=net) as two: found.append(gateway(two))
    with box(net=net) as three: found.append(gateway(three))
tell(found)
"""
    )
    assert len(set(addresses)) == 1
    assert addresses[0]


def test_bandwidth_holds_in_both_directions(caller: Caller) -> None:
    # 2 Mbit/s are 250 kB a second: half a megabyte takes two seconds, and a moment without the limit.
    slow, fast = caller.run(
        """
CODE = '''
import socket, sys, time
if len(sys.argv) == 1:
    s = socket.create_server(("0.0.0.0", 8080)); print("up", flush=True)
    while True:
        c, _ = s.accept()
        while c.recv(65536): pass
        c.sendall(bytes(500_000)); c.close()
with socket.create_connection((sys.argv[1], 8080)) as s:
    begun = time.monotonic(); s.sendall(bytes(500_000)); s.shutdown(socket.SHUT_WR); first = s.recv(1); sent = time.monotonic() - begun
    begun = time.monotonic()
    while s.recv(65536): pass
    print(sent, time.monotonic() - begun)
'''
def measured(**spec):
    with box(net={"internal": True}, **spec) as client:
        return list(map(float, client.run([PYTHON, "-I", "-S", "-c", CODE, server.address.ip], check=True, timeout=60).stdout.split()))
with box(net={"internal": True}) as server:
    process = server.popen([PYTHON, "-I", "-S", "-c", CODE], stdout=subprocess.PIPE); process.stdout.readline()
    tell([measured(bandwidth={"rx": "2mbit", "tx": "2mbit"}), measured()])
"""
    )
    assert all(seconds > 1.2 for seconds in slow)
    assert all(fast_one < slow_one for fast_one, slow_one in zip(fast, slow, strict=True))


def test_delay_is_there_or_netem_is_named(caller: Caller) -> None:
    told = caller.run(
        SERVER
        + """
import time
try:
    with box(net=INTERNAL) as server, box(net=INTERNAL, bandwidth={"delay": "50ms"}) as client:
        serve(server)
        begun = time.monotonic(); ask(client, server.address.ip)
        tell(time.monotonic() - begun)
except MissingCapability as error:
    tell([error.capability, error.keys, str(error)])
"""
    )
    if why_missing("netem"):
        capability, keys, text = told
        assert (capability, keys) == ("netem", ["bandwidth"])
        assert "modprobe sch_netem" in text
    else:
        assert told > 0.1  # there and back


def test_ipv6_listener_is_published(caller: Caller) -> None:
    assert caller.run(
        SERVER
        + """
with box(net=INTERNAL, publish=["[::1]::8080"]) as web:
    serve(web)
    host, port = web.ports[8080, "tcp"]
    with socket.create_connection((host, port), timeout=5) as s:
        tell([host, s.makefile().read() == web.address.gateway])
"""
    ) == ["::1", True]


def test_names_and_ports_go_with_the_sandbox(caller: Caller) -> None:
    answers = caller.run(
        SERVER
        + """
with box(net=INTERNAL) as client:
    with box(name="web", net=INTERNAL): before = ask(client, "web")
    tell([before, ask(client, "web")])
"""
    )
    assert answers == ["ECONNREFUSED", "gaierror"]
