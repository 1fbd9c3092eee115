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
    assert back > 100_000_000
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
