"""The parts that the network of a run is made of, each on its own with real traffic: as root, and in a user's own namespaces."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import netdriver
from tests.support.callers import CALLERS, Caller
from tests.support.capabilities import requires
from tests.support.unprivileged import user_directory

PRELUDE = Path(netdriver.__file__).read_text(encoding="utf-8").partition('if __name__ == "__main__"')[0]

CODE = """
import errno, threading, time
from pytest_isolate.model.errors import MissingCapability
from pytest_isolate.model.net import Bandwidth

SINK = '''
import socket, threading, time
listener = socket.create_server(("", 9000))
got = []
def take():
    connection = listener.accept()[0]
    while data := connection.recv(1 << 20):
        got.append((time.monotonic(), len(data)))
threading.Thread(target=take, daemon=True).start()
'''
# Bytes per second that arrived between one second after the beginning, when TCP has found its pace, and the end.
SEND = '''
import socket, time
begin = time.monotonic()
with socket.create_connection((to, 9000), timeout=20) as out:
    while time.monotonic() < begin + seconds:
        out.send(bytes(16384))
'''
MEASURE = '''
begin, end = got[0][0] + 0.5, got[0][0] + seconds
result = sum(size for moment, size in got if begin < moment <= end) / (end - begin)
'''

def goodput(sender, receiver, seconds=3.0):
    receiver.call(SINK)
    sender.call(SEND, to=receiver.address, seconds=seconds)
    return receiver.call(MEASURE, seconds=seconds) * 8

def qdiscs(rt, index):
    return [found.get_attr("TCA_KIND") for found in rt.get_qdiscs(index=index)]
"""

Run = Callable[..., Any]


@pytest.fixture(params=CALLERS)
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Runs code in a network of its own, once as root and once as an unprivileged user, and gives what it told."""

    def run_in(directory: Path) -> Run:
        caller = Caller(request.param, directory, None)

        def run(code: str, *, before: str = "") -> Any:
            text = f"{PRELUDE}\n{CODE}\nenter()\n{before}\nnetwork = Network()\n{code}\nnetwork.end()"
            done = caller.python("-c", text)
            assert done.returncode == 0, done.stdout + done.stderr
            return netdriver.json.loads(done.stdout.splitlines()[-1])

        return run

    if request.param == "root":
        yield run_in(tmp_path)
    else:
        with user_directory() as directory:
            yield run_in(directory)


@requires("tbf")
def test_rate_is_what_was_asked_for_in_one_direction_only(run: Run) -> None:
    there, back, kinds = run("""
from pytest_isolate.network.shaping import shape
a, b = network.box(), network.box()
shape(network.rt, b.port_index, 100_000_000, Bandwidth())
shape(network.rt, b.port_index, 10_000_000, Bandwidth())
tell([goodput(a, b), goodput(b, a, 1.0), qdiscs(network.rt, b.port_index)])
""")
    assert 7_500_000 < there < 12_500_000
    assert back > 1.5 * there
    assert kinds == ["tbf"]


def test_htb_gives_the_rate_where_there_is_no_tbf_and_takes_those_that_tbf_cannot(run: Run) -> None:
    rate, kinds = run("""
from pytest_isolate.network import shaping
a, b = network.box(), network.box()
shaping._htb(network.rt, b.port_index, 10_000_000 // 8, 1514)
rate = goodput(a, b)
shaping.shape(network.rt, a.port_index, 50_000_000_000, Bandwidth())
tell([rate, qdiscs(network.rt, a.port_index)])
""")
    assert 7_500_000 < rate < 12_500_000
    assert kinds == ["htb"]


def test_sandbox_end_is_shaped_through_a_socket_of_its_namespace(run: Run) -> None:
    rate = run("""
a, b = network.box(), network.box()
a.call('''
from pytest_isolate.model.net import Bandwidth
from pytest_isolate.network.shaping import shape
shape(rt, index, 20_000_000, Bandwidth())
''')
tell(goodput(a, b))
""")
    assert 15_000_000 < rate < 25_000_000


def test_nothing_asked_leaves_the_interface_as_it_is(run: Run) -> None:
    before, after = run("""
from pytest_isolate.network.shaping import shape
a = network.box()
before = qdiscs(network.rt, a.port_index)
shape(network.rt, a.port_index, None, Bandwidth(rx=1_000_000, tx=1_000_000))
tell([before, qdiscs(network.rt, a.port_index)])
""")
    assert before == after


def test_qdisc_that_the_kernel_lacks_is_named_with_key_answer_and_remedy(run: Run) -> None:
    text, args = run("""
from pytest_isolate.network import shaping
a = network.box()
def add():
    network.rt.tc("replace", index=a.port_index, handle=0x10000, parent=0xFFFFFFFF, attrs=[("TCA_KIND", "nosuch")])
try:
    shaping._known("nosuch", add)
except MissingCapability as error:
    tell([str(error), error.args])
""")
    assert args[:2] == ["nosuch", ["bandwidth"]]
    assert text.startswith("bandwidth needs nosuch: tc qdisc add nosuch: ENOENT (Specified qdisc kind is unknown)")
    assert "modprobe sch_nosuch" in text
    assert "CONFIG_NET_SCH_NOSUCH" in text


def test_other_refusals_are_not_taken_for_a_missing_qdisc(run: Run) -> None:
    code = run("""
from pyroute2.netlink.exceptions import NetlinkError
from pytest_isolate.network import shaping
try:
    shaping.shape(network.rt, 99, 1_000_000, Bandwidth())
except NetlinkError as error:
    tell(error.code)
""")
    assert code == 19  # ENODEV


ECHO = """
ECHO = '''
import socket, threading
echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
echo.bind(("", 7))
def reply():
    while True:
        data, client = echo.recvfrom(2048)
        echo.sendto(data, client)
threading.Thread(target=reply, daemon=True).start()
'''
TIMES = '''
import socket, time
asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asking.connect((to, 7))
asking.settimeout(0.5)
result = []
for number in range(count):
    begin = time.monotonic()
    asking.send(bytes(100))
    try:
        asking.recv(2048)
        result.append(time.monotonic() - begin)
    except TimeoutError:
        result.append(None)
'''
"""


@requires("netem")
def test_delay_and_jitter_are_added_to_each_packet(run: Run) -> None:
    plain, slow = run(
        ECHO
        + """
from pytest_isolate.network.shaping import shape
a, b = network.box(), network.box()
b.call(ECHO)
plain = a.call(TIMES, to=b.address, count=10)
shape(network.rt, b.port_index, None, Bandwidth(delay=0.1, jitter=0.02))
tell([plain, a.call(TIMES, to=b.address, count=10)])
"""
    )
    assert min(plain) < 0.05
    assert min(slow[1:]) > 0.075
    assert max(slow[1:]) - min(slow[1:]) > 0.005


@requires("netem")
def test_a_share_of_the_packets_is_lost(run: Run) -> None:
    lost = run(
        ECHO
        + """
from pytest_isolate.network.shaping import shape
a, b = network.box(), network.box()
b.call(ECHO)
a.call(TIMES, to=b.address, count=1)
shape(network.rt, b.port_index, None, Bandwidth(loss=0.3))
tell(a.call(TIMES.replace("0.5", "0.05"), to=b.address, count=200).count(None))
"""
    )
    assert 30 < lost < 100  # 60 expected; a deviation of 6.5


@requires("netem")
def test_rate_with_a_delay_is_the_rate(run: Run) -> None:
    rate, kinds = run("""
from pytest_isolate.network.shaping import shape
a, b = network.box(), network.box()
shape(network.rt, b.port_index, 10_000_000, Bandwidth(delay=0.02))
tell([goodput(a, b, 5.0), qdiscs(network.rt, b.port_index)])
""")
    assert 7_500_000 < rate < 12_500_000
    assert kinds == ["netem"]


PARTITION = """
from pytest_isolate.network.partition import cut, mend

LISTEN = '''
import socket, threading, time
listener = socket.create_server(("::", 9000), family=socket.AF_INET6, dualstack_ipv6=True, backlog=9)
got = []
def take(connection):
    while data := connection.recv(1 << 20):
        got.append(data.decode())
def accept():
    while True:
        threading.Thread(target=take, args=[listener.accept()[0]], daemon=True).start()
threading.Thread(target=accept, daemon=True).start()
'''
CONNECT = '''
import socket, time
begin = time.monotonic()
try:
    socket.create_connection((to, 9000), timeout=limit).close()
    result = time.monotonic() - begin
except TimeoutError:
    result = "silence"
'''
CUT = "from pytest_isolate.network.partition import cut; cut(rt, index, others)"
MEND = "from pytest_isolate.network.partition import mend; mend(rt, index, others)"

def waited(box, wanted, limit):
    begin = time.monotonic()
    while time.monotonic() < begin + limit:
        if wanted in box.call("result = got"):
            return True
        time.sleep(0.05)
    return False
"""


@pytest.mark.parametrize("family", ["address", "address6"])
def test_partition_loses_silently_also_what_is_connected_and_mending_works_at_once(run: Run, family: str) -> None:
    told = run(
        PARTITION
        + f"""
a, b, c = network.box(), network.box(), network.box()
for box in (b, c):
    box.call(LISTEN)
to, third = b.{family}, c.{family}
a.call('''
import socket
out = socket.create_connection((to, 9000))
out.send(b"before")
''', to=to)
told = {{"before": waited(b, "before", 5)}}
a.call(CUT, others=[to])
b.call(CUT, others=[a.{family}])
a.call(CUT, others=[to])  # again
a.call('out.send(b"during")')
told["during"] = waited(b, "during", 1)
told["new"] = a.call(CONNECT, to=to, limit=1)
told["third"] = a.call(CONNECT, to=third, limit=5)
a.call(MEND, others=[to])
b.call(MEND, others=[a.{family}, third])
told["mended"] = a.call(CONNECT, to=to, limit=5)
told["after"] = waited(b, "during", 20)
tell(told)
"""
    )
    assert told["before"]
    assert not told["during"]
    assert told["new"] == "silence"
    assert told["third"] < 1
    assert told["mended"] < 1
    assert told["after"]


NAMES = """
import socket, struct
from ipaddress import ip_network
from pytest_isolate.network.names import NameServer
from pytest_isolate.network.names_message import Query, answer
from ipaddress import ip_address

# The world's name server: on the host's loopback, as systemd-resolved is.
asked = []

def reply(data, tcp):
    query = Query.parse(data)
    name = b".".join(query.name).decode()
    asked.append([name, query.id])
    if name == "refused.test":
        return answer(query, (), rcode=5, recurse=True)
    if name == "unknown.test" or name.endswith(".corp.test"):
        return answer(query, (), rcode=3, recurse=True)
    count = 100 if name == "many.test" else 1
    found = [ip_address(f"203.0.113.{number}") for number in range(1, count + 1)] if query.type == 1 else []
    return answer(query, found, recurse=True, limit=None if tcp else query.udp_size)

def world(port):
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.53", port))
    tcp = socket.create_server(("127.0.0.53", port))
    def datagrams():
        while True:
            data, client = udp.recvfrom(9999)
            if b"lost" in data and len(asked) % 2 == 0:
                asked.append(["lost", 0])
                continue
            udp.sendto(bytes(2) + reply(data, False)[2:], client)  # a forger's, who doesn't know the id
            udp.sendto(reply(data, False), client)
    def connections():
        while True:
            connection = tcp.accept()[0]
            with connection:
                (length,) = struct.unpack("!H", connection.recv(2))
                found = reply(connection.recv(length), True)
                connection.sendall(struct.pack("!H", len(found)) + found)
    for work in (datagrams, connections):
        threading.Thread(target=work, daemon=True).start()
"""

SERVER = """
world(53)
server = NameServer([("127.0.0.53", 1), ("127.0.0.53", 53)], search=["corp.test"])
new_network()
"""

SERVE = """
def sockets(address):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    udp, tcp = socket.socket(family, socket.SOCK_DGRAM), socket.socket(family, socket.SOCK_STREAM)
    udp.bind((address, 53))
    tcp.bind((address, 53))
    return udp, tcp

# Its own resolv.conf, as a sandbox has.
RESOLVE = '''
import os, socket
from pytest_isolate.kernel.mounts import mount, bind, MS_PRIVATE, MS_REC
if "resolve" not in globals():
    mount("none", "/", "", MS_REC | MS_PRIVATE)
    mount("tmpfs", "/mnt", "tmpfs")
    with open("/mnt/resolv.conf", "w") as file:
        file.write(f"nameserver {to}\\\\nsearch corp.test\\\\noptions timeout:2 attempts:2 {options}\\\\n")
    bind("/mnt/resolv.conf", os.path.realpath("/etc/resolv.conf"))
def resolve(name, family=0):
    try:
        return sorted({found[4][0] for found in socket.getaddrinfo(name, 80, family, socket.SOCK_STREAM)})
    except OSError as error:
        return error.errno
def reverse(address):
    try:
        return socket.gethostbyaddr(address)[0]
    except OSError as error:
        return None
result = [resolve(name) for name in names]
'''
"""


def test_sandboxes_are_found_by_name_and_the_rest_through_the_hosts_server(run: Run) -> None:
    told = run(
        SERVE
        + """
a = network.box()
server.serve("bridge", *sockets("10.99.0.1"), recurse=True, subnets=[ip_network("10.99.0.0/24")])
server.add("bridge", ["db", "Primary"], ["10.99.0.7", "fd00:99::7"])
server.add("bridge", ["web"], ["10.99.0.8"])
server.add("bridge", ["web"], ["10.99.0.9"])
names = ["db", "PRIMARY", "db.bridge", "web", "nobody", "nobody.bridge", "host.test", "unknown.test", "many.test", "lost.test"]
told = dict(zip(names, a.call(RESOLVE, to="10.99.0.1", options="", names=names)))
told["ipv4 only"] = a.call("result = resolve('web', socket.AF_INET6)")
told["reverse"] = a.call("result = [reverse('10.99.0.7'), reverse('fd00:99::7'), reverse('10.99.0.77')]")
server.remove("bridge", ["web"], ["10.99.0.8"])
told["one left"] = a.call("result = resolve('web')")
server.remove("bridge", ["web"], ["10.99.0.9"])
told["none left"] = a.call("result = resolve('web')")
told["edns"] = a.call("import os; os.environ['RES_OPTIONS'] = 'edns0 trust-ad'; result = [resolve('db'), resolve('many.test')]")
told["asked"] = asked
server.stop()
tell(told)
""",
        before=NAMES + SERVER,
    )
    both = ["10.99.0.7", "fd00:99::7"]
    many = sorted(f"203.0.113.{number}" for number in range(1, 101))
    unknown = (-2, -5)  # EAI_NONAME, EAI_NODATA
    assert [told[name] for name in ("db", "PRIMARY", "db.bridge")] == [both] * 3
    assert told["web"] == ["10.99.0.8", "10.99.0.9"]
    assert told["nobody"] in unknown
    assert told["nobody.bridge"] in unknown
    assert told["host.test"] == told["lost.test"] == ["203.0.113.1"]
    assert told["unknown.test"] in unknown
    assert told["many.test"] == many
    assert told["ipv4 only"] in unknown
    assert told["reverse"] == ["db", "db", None]
    assert told["one left"] == ["10.99.0.9"]
    assert told["none left"] in unknown
    assert told["edns"] == [both, many]
    left = {name for name, _ in told["asked"]}
    assert "db.corp.test" not in left
    assert not {name for name in left if "." not in name} - {"lost"}
    assert not {name for name in left if name.endswith((".bridge", ".arpa"))}
    assert len({number for name, number in told["asked"] if number}) > 5


def test_internal_network_asks_nobody_and_strangers_are_not_answered(run: Run) -> None:
    told = run(
        SERVE
        + """
a = network.box()
server.serve("inner", *sockets("10.99.0.1"), recurse=False, subnets=[ip_network("10.99.0.0/24")])
server.serve("inner", *sockets("fd00:99::1"), recurse=False, subnets=[ip_network("fd00:88::/64")])
server.add("inner", ["db"], ["10.99.0.7"])
told = {"names": a.call(RESOLVE, to="10.99.0.1", options="", names=["db", "host.test", "www.corp.test"])}
STRANGER = '''
import socket
asking = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
asking.settimeout(0.5)
asking.sendto(bytes.fromhex("123401000001000000000000026462000001" + "0001"), ("fd00:99::1", 53))
try:
    result = asking.recv(999).hex()
except TimeoutError:
    result = "silence"
'''
told["stranger"] = a.call(STRANGER)
connection = '''
out = socket.create_connection(("fd00:99::1", 53), timeout=5)
result = out.recv(1)
result = "closed" if not result else "data"
'''
told["stranger over TCP"] = a.call(connection)
told["asked"] = asked
server.stop()
tell(told)
""",
        before=NAMES + SERVER,
    )
    assert told["names"] == [["10.99.0.7"], -2, -2]
    assert told["stranger"] == "silence"
    assert told["stranger over TCP"] == "closed"
    assert told["asked"] == []


def test_no_server_that_answers_is_a_failure_told_within_the_resolvers_patience(run: Run) -> None:
    found, took = run(
        SERVE
        + """
a = network.box()
server.serve("bridge", *sockets("10.99.0.1"), recurse=True)
a.call(RESOLVE, to="10.99.0.1", options="", names=[])
begin = time.monotonic()
found = a.call("result = resolve('host.test', socket.AF_INET)")
tell([found, time.monotonic() - begin])
""",
        before=NAMES
        + """
silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
silent.bind(("127.0.0.53", 53))
server = NameServer([("127.0.0.53", 53)])
new_network()
""",
    )
    assert found == -3  # EAI_AGAIN
    assert took < 15


def test_garbage_and_many_clients_at_once_leave_the_server_answering(run: Run) -> None:
    told = run(
        SERVE
        + """
a = network.box()
server.serve("bridge", *sockets("10.99.0.1"), recurse=True)
server.add("bridge", ["db"], ["10.99.0.7"])
told = {"garbage": a.call('''
import os, random, socket
asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
random.seed(1)
for _ in range(500):
    asking.sendto(random.randbytes(random.randrange(0, 200)), ("10.99.0.1", 53))
out = socket.create_connection(("10.99.0.1", 53))
out.send(os.urandom(500))
idle = [socket.create_connection(("10.99.0.1", 53)) for _ in range(100)]
result = True
''')}
told["many"] = a.call('''
import struct, threading
found = set()
def ask(number):
    name = f"host{number}.test"
    question = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + bytes(1) + struct.pack("!2H", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(10)
        asking.sendto(struct.pack("!6H", number, 0x100, 1, 0, 0, 0) + question, ("10.99.0.1", 53))
        answer = asking.recv(999)
        if answer[:2] == struct.pack("!H", number) and question in answer and answer[7] == 1:
            found.add(number)
threads = [threading.Thread(target=ask, args=[number]) for number in range(300)]
for thread in threads: thread.start()
for thread in threads: thread.join()
result = len(found)
''')
told["own"] = a.call(RESOLVE, to="10.99.0.1", options="use-vc", names=["db"])
begin = time.monotonic()
server.stop()
told["stop"] = time.monotonic() - begin
told["threads"] = [thread.name for thread in threading.enumerate() if "names" in thread.name]
tell(told)
""",
        before=NAMES + SERVER,
    )
    assert told["many"] == 300
    assert told["own"] == [["10.99.0.7"]]
    assert told["stop"] < 1
    assert told["threads"] == []


WATCH = """
from pytest_isolate.network.watch import Watch
LISTEN = '''
import socket, threading
listener = socket.create_server(("::", 9000), family=socket.AF_INET6, dualstack_ipv6=True, backlog=99)
echo = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
echo.bind(("::", 7))
def accept():
    while True:
        listener.accept()[0].close()
def reply():
    while True:
        data, client = echo.recvfrom(2048)
        echo.sendto(data, client)
for work in (accept, reply):
    threading.Thread(target=work, daemon=True).start()
'''
TRY = '''
import socket
def tcp(address, port, limit=0.3):
    try:
        socket.create_connection((address, port), timeout=limit).close()
        return "connected"
    except TimeoutError:
        return "silence"
    except OSError as error:
        return type(error).__name__
def udp(address, port, bind=0):
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(0.3)
        asking.connect((address, port))
        try:
            for _ in range(2):
                asking.send(b"x")
                asking.recv(9)
            return "answered"
        except TimeoutError:
            return "silence"
        except OSError as error:
            return type(error).__name__
result = [tcp(*entry) for entry in over_tcp] + [udp(*entry) for entry in over_udp]
'''
"""


def test_contacts_are_told_by_how_they_ended_for_each_sandbox(run: Run) -> None:
    how, mine, theirs, again = run(
        WATCH
        + """
from pytest_isolate.network.partition import cut
a, b, c = network.box(), network.box(), network.box()
watch = Watch("br0", ["10.99.0.1"])
b.call(LISTEN)
a.call("from pytest_isolate.network.partition import cut; cut(rt, index, others)", others=[c.address])
over_tcp = [
    (b.address, 9000), (b.address6, 9000), (b.address, 9001), (c.address, 80), (b.address, 9000), ("10.99.0.1", 81),
    ("10.99.0.1", 53), ("127.0.0.1", 1), ("198.51.100.1", 443),
]
over_udp = [(b.address, 7), (b.address6, 7), (b.address, 8), (c.address, 7), ("10.99.0.1", 53)]
how = a.call(TRY, over_tcp=over_tcp, over_udp=over_udp)
time.sleep(0.2)
mine, theirs = watch.take(a.address), watch.take(b.address)
again = watch.take(a.address)
six = watch.take(a.address6)
watch.stop()
tell([how, [mine.to_json(), six.to_json()], theirs.to_json(), again.to_json()])
"""
    )
    assert how == [
        "connected", "connected", "ConnectionRefusedError", "silence", "connected", "ConnectionRefusedError",
        "ConnectionRefusedError", "ConnectionRefusedError", how[8],
        "answered", "answered", "ConnectionRefusedError", "silence", "ConnectionRefusedError",
    ]  # fmt: skip
    four, six = mine
    assert four["reached"] == [["tcp", "10.99.0.3", 9000], ["udp", "10.99.0.3", 7]]
    # Nothing forwards, or it leads nowhere: silence, or the gateway's ICMP.
    assert [entry for entry in four["refused"] if entry[1] != "198.51.100.1"] == [
        ["tcp", "10.99.0.3", 9001],
        ["tcp", "10.99.0.1", 81],
        ["udp", "10.99.0.3", 8],
    ]
    assert [entry for entry in four["unanswered"] if entry[1] != "198.51.100.1"] == [
        ["tcp", "10.99.0.4", 80],
        ["udp", "10.99.0.4", 7],
    ]
    assert ["tcp", "198.51.100.1", 443] in four["unanswered"] + four["refused"]
    assert six["reached"] == [["tcp", "fd00:99::3", 9000], ["udp", "fd00:99::3", 7]]
    nothing = {"reached": [], "refused": [], "unanswered": [], "more": 0, "incomplete": False}
    assert theirs == again == nothing
    assert not four["incomplete"]


def test_outside_world_behind_the_gateway_is_seen_and_refusals_on_its_way(run: Run) -> None:
    how, found = run(
        WATCH
        + """
a = network.box()
watch = Watch("br0")
other = Network.__new__(Network)
# A second bridge stands for the way out; the box on it, for a server outside.
rt = network.rt
rt.link("add", ifname="br1", kind="bridge")
other.rt, other.index, other.boxes = rt, rt.link_lookup(ifname="br1")[0], []
rt.addr("add", index=other.index, address="192.0.2.1", prefixlen=24)
rt.link("set", index=other.index, state="up")
server = Box(other, 9)
network.boxes.append(server)
server.call('''
rt.flush_addr(index=index)
rt.addr("add", index=index, address="192.0.2.9", prefixlen=24)
rt.route("add", dst="default", gateway="192.0.2.1")
''')
for setting, value in (("ip_forward", "1"), ("icmp_ratelimit", "0")):
    with open(f"/proc/sys/net/ipv4/{setting}", "w") as file:
        file.write(value)
rt.route("add", dst="198.51.100.0/24", type="unreachable")
server.call(LISTEN)
how = a.call(TRY, over_tcp=[("192.0.2.9", 9000), ("192.0.2.9", 9001), ("198.51.100.1", 80)], over_udp=[("192.0.2.9", 7), ("198.51.100.1", 7)])
time.sleep(0.2)
tell([how, watch.take(a.address).to_json()])
watch.stop()
"""
    )
    assert how == [
        "connected",
        "ConnectionRefusedError",
        "OSError",
        "answered",
        "silence",
    ]  # UDP sockets aren't told of an unreachable host
    assert found["reached"] == [["tcp", "192.0.2.9", 9000], ["udp", "192.0.2.9", 7]]
    assert found["refused"] == [["tcp", "192.0.2.9", 9001], ["tcp", "198.51.100.1", 80], ["udp", "198.51.100.1", 7]]
    assert found["unanswered"] == []


def test_a_hundred_contacts_are_listed_and_the_rest_counted_and_a_flood_of_datagrams_hides_no_connection(run: Run) -> None:
    found, cost = run(
        WATCH
        + """
import resource
a, b = network.box(), network.box()
watch = Watch("br0")
b.call(LISTEN)
a.call('''
import socket
flood = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(30000):
    flood.sendto(b"x", (to, 20000 + number % 5))
''', to=b.address)
a.call(TRY, over_tcp=[(b.address, 9000), *((b.address, 30000 + number) for number in range(150))], over_udp=[])
time.sleep(0.3)
found = watch.take(a.address).to_json()
watch.stop()
tell([found, resource.getrusage(resource.RUSAGE_SELF).ru_utime])
"""
    )
    assert ["tcp", "10.99.0.3", 9000] in found["reached"]
    tcp = [entry for entry in found["refused"] if entry[0] == "tcp"]
    assert len(found["refused"]) == 100
    assert [entry[2] for entry in tcp] == list(range(30000, 30000 + len(tcp)))
    assert found["more"] >= 50
    assert {entry[2] for entry in found["refused"] + found["unanswered"] if entry[0] == "udp"} <= set(range(20000, 20005))
    assert cost < 10
