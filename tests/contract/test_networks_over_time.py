"""Bridge networks over the life of a run: what sandboxes hand on to those that come after them, and what interrupts and threads leave."""

from __future__ import annotations

import pytest

from tests.support.callers import Caller, caller

__all__ = ["caller"]

PRELUDE = """
INTERNAL = {"internal": True}

def spec(**keys):
    return Spec(**{key: parse_key(key, keys[key], "/") if key in ("net", "bandwidth") else keys[key] for key in keys})

def addresses(opened, name):
    code = f"import socket; print(*sorted({{found[4][0] for found in socket.getaddrinfo({name!r}, 1, socket.AF_INET)}}))"
    return opened.run([PYTHON, "-I", "-S", "-c", code], check=True, timeout=60).stdout.decode().split()

def connect(opened, host, timeout=3):
    code = f'''
import errno, socket
try: socket.create_connection(({host!r}, 9), timeout={timeout})
except OSError as error: print(type(error).__name__)
'''
    return opened.run([PYTHON, "-I", "-S", "-c", code], check=True, timeout=60).stdout.decode().strip()

def hub(pool):
    builder = pool.launch().pid
    children = [int(pid) for pid in open(f"/proc/{builder}/task/{builder}/children").read().split()]
    (found,) = [pid for pid in children if name(pid) == "isolate-network"]
    return found

def name(pid):
    try: return open(f"/proc/{pid}/comm").read().strip()
    except OSError: return ""

class Interrupted(Exception): pass

def interrupt(*_): raise Interrupted

def interrupted(function, *args):
    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try: function(*args)
    except Interrupted: return True
"""


def test_address_and_names_pass_to_the_next_sandbox_at_once(caller: Caller) -> None:
    """Where the builder is told only after the next test's fork what it may remove."""
    told = caller.run(
        PRELUDE
        + """
pool = Pool(cgroup=CGROUP, depth=3, paced=True)
wanted = spec(net={**INTERNAL, "network": "small", "subnet": "10.99.231.0/29", "ip": "10.99.231.3", "aliases": ["db"]})
pool.expect([wanted] * 4)
found = []
for _ in range(4):
    opened = pool.acquire(wanted)
    found.append(addresses(opened, "db"))
    opened.release()
pool.close()
tell(found)
"""
    )
    assert told == [["10.99.231.3"]] * 4


def test_a_hub_that_is_killed_takes_no_sandbox_along_that_is_still_to_come(caller: Caller) -> None:
    told = caller.run(
        PRELUDE
        + """
pool = Pool(cgroup=CGROUP, depth=3)
wanted = spec(net=INTERNAL)
pool.expect([wanted] * 9)
with pool.acquire(wanted):
    os.kill(hub(pool), signal.SIGKILL)
    time.sleep(0.3)
found = []
for number in range(5):
    with pool.acquire(wanted, f"box{number}") as opened:
        interfaces = opened.run([PYTHON, "-I", "-S", "-c", "import socket; print(len(socket.if_nameindex()))"]).stdout
        found.append([int(interfaces), addresses(opened, f"box{number}") == [opened.address.ip]])
pool.close()
tell(found)
"""
    )
    assert told == [[2, True]] * 5


def test_interrupted_questions_and_orders_are_nobody_elses(caller: Caller) -> None:
    told = caller.run(
        PRELUDE
        + """
wanted = spec(net=INTERNAL)
first = POOL.acquire(wanted, "first")
os.kill(hub(POOL), signal.SIGSTOP)
question = interrupted(POOL.ask, "contacts", first.number, {})
os.kill(hub(POOL), signal.SIGCONT)
second = POOL.acquire(wanted, "second")
os.kill(hub(POOL), signal.SIGSTOP)
order = interrupted(POOL.acquire, wanted)
os.kill(hub(POOL), signal.SIGCONT)
before = len(os.listdir("/proc/self/fd"))
third = POOL.acquire(wanted, "third")
after = len(os.listdir("/proc/self/fd"))
tell([question, order, [addresses(third, name) == [box.address.ip] for name, box in POOL.names.items()], after - before])
"""
    )
    assert told == [True, True, [True] * 3, 1]


def test_a_name_that_dns_cannot_carry_spoils_no_other_sandbox(caller: Caller) -> None:
    text, right = caller.run(
        PRELUDE
        + """
try: box(net=INTERNAL, hostname="a..b").__enter__()
except SetupError as error: text = str(error)
right = []
for number in range(3):
    with box(net=INTERNAL, name=f"box{number}") as opened:
        right.append(addresses(opened, f"box{number}") == [opened.address.ip])
tell([text, right])
"""
    )
    assert "'a..b' is no name for DNS" in text
    assert right == [True] * 3


def test_threads_make_sandboxes_at_the_same_time(caller: Caller) -> None:
    told = caller.run(
        PRELUDE
        + """
done = []
def make(number):
    for _ in range(5):
        with box(net=INTERNAL, name=f"box{number}") as opened:
            assert opened.contacts() is not None
    done.append(number)
threads = [threading.Thread(target=make, args=(number,), daemon=True) for number in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join(30)
tell(sorted(done))
"""
    )
    assert told == [0, 1, 2, 3]


def test_what_a_dead_sandbox_was_parted_from_reaches_the_next_holder_of_its_address(caller: Caller) -> None:
    told = caller.run(
        PRELUDE
        + """
net = {**INTERNAL, "network": "parted", "subnet": "10.99.232.0/24"}
with box(net=net) as one:
    with box(net={**net, "ip": "10.99.232.9"}) as other:
        one.cut(other)
        parted = connect(one, other.address.ip, timeout=1)
        os.kill(other.init_pid, signal.SIGKILL)
        assert other.ended(5)
        other.mend(one)
    with box(net={**net, "ip": "10.99.232.9"}) as other:
        tell([parted, connect(one, other.address.ip)])
"""
    )
    assert told == ["TimeoutError", "ConnectionRefusedError"]


def test_a_sandbox_in_anothers_network_is_parted_with_that_one(caller: Caller) -> None:
    told = caller.run(
        PRELUDE
        + """
with box(name="one", net=INTERNAL) as one, box(name="in-one", net="container:one") as joined, box(net=INTERNAL) as other:
    with box(net="container:in-one") as third:
        try: third.cut(one)
        except SetupError as error: refused = str(error)
    joined.cut(other)
    parted = connect(one, other.address.ip, timeout=1)
    one.mend(other)
    tell([refused, parted, connect(joined, other.address.ip)])
"""
    )
    refused, parted, mended = told
    assert "they share one network namespace" in refused
    assert [parted, mended] == ["TimeoutError", "ConnectionRefusedError"]


def test_an_address_is_the_new_holders_even_if_somebody_is_left_in_the_old_ones_network(caller: Caller) -> None:
    told = caller.run(
        PRELUDE
        + """
net = {**INTERNAL, "network": "tiny", "subnet": "10.99.233.0/29"}
with box(net=net, name="one") as one, box(net="container:one") as joined, box(net=net) as client:
    address = one.address.ip
    one.release()
    with box(net={**net, "ip": address}) as two:
        tell([connect(client, address), connect(two, client.address.ip), connect(joined, client.address.ip, timeout=1)])
"""
    )
    assert told == ["ConnectionRefusedError", "ConnectionRefusedError", "TimeoutError"]


def test_a_namespace_that_is_born_with_devices_is_linked(caller: Caller) -> None:
    """As those are where ipip or sit is loaded (net.core.fb_tunnels_only_for_init_net): the first index after lo is taken."""
    told = caller.run(
        """
from pyroute2 import IPRoute
from pytest_isolate.kernel.namespaces import CLONE_NEWNET
from pytest_isolate.kernel.rtnetlink import Route
from pytest_isolate.kernel.syscalls import unshare
from pytest_isolate.model.net import Net
from pytest_isolate.network.bridge import Network, inside
from pytest_isolate.sandbox.identity import enter_run_namespace
import ipaddress
enter_run_namespace()
unshare(CLONE_NEWNET)
with IPRoute() as rt: rt.link("add", ifname="tunl0", kind="bridge")
sandbox = os.open("/proc/self/ns/net", os.O_RDONLY)
unshare(CLONE_NEWNET)
with IPRoute() as rt:
    asked = Net("bridge", network="n", internal=True)
    network = Network.create(rt, Route(), 0, asked, ipaddress.IPv4Network("10.99.234.0/24"), None)
    network.attach(1, asked, sandbox, None)
    with inside(sandbox) as within:
        tell([link.get_attr("IFLA_IFNAME") for link in within.get_links()])
"""
    )
    assert told == ["lo", "tunl0", "eth0"]


@pytest.mark.parametrize("keys", ['bandwidth="1gbit"', 'hostname="same"'])
def test_the_hub_keeps_nothing_of_sandboxes_that_are_gone(caller: Caller, keys: str) -> None:
    told = caller.run(
        PRELUDE
        + """
def held():
    pid = hub(POOL)
    return len(os.listdir(f"/proc/{pid}/fd")), int(open(f"/proc/{pid}/statm").read().split()[1]) * 4
def many(number):
    for _ in range(number):
        with POOL.acquire(wanted) as opened: opened.contacts()
wanted = spec(net=INTERNAL, KEYS)
many(10)
before = held()
many(60)
tell([after - former for after, former in zip(held(), before)])
""".replace("KEYS", keys)
    )
    fds, kib = told
    assert fds <= 2
    assert kib < 3000  # without collections 7 MB for links that are shaped


def test_a_hub_that_cannot_start_leaves_nothing_in_the_builder(caller: Caller) -> None:
    texts, before, after = caller.run(
        PRELUDE
        + """
import pytest_isolate.sandbox.builder_process as builder_process
builder_process._libraries = lambda: []
def refused():
    try: box(net=INTERNAL).__enter__()
    except SetupError as error: return str(error)
def held(): return len(os.listdir(f"/proc/{POOL.launch().pid}/fd"))
texts = {refused()}
before = held()
texts |= {refused() for _ in range(5)}
tell([sorted(texts), before, held()])
"""
    )
    assert ["pyroute2" in text for text in texts] == [True]
    assert after == before


def test_a_way_out_that_is_missing_is_looked_for_once(caller: Caller) -> None:
    """Trying a program that hangs takes seconds, and each test of a run asks."""
    texts, seconds = caller.run(
        """
directory = os.path.join(os.getcwd(), "bin")
os.mkdir(directory)
with open(f"{directory}/slirp4netns", "w") as file: file.write("#!/bin/sh\\nexec sleep 60\\n")
os.chmod(file.name, 0o755)
os.environ["PATH"] = f"{directory}:{os.environ['PATH']}"
pool = Pool(cgroup=CGROUP, depth=0, uplink="slirp4netns")
begun, texts = time.monotonic(), set()
for _ in range(4):
    try: pool.acquire(Spec(net=parse_key("net", "bridge", "/")))
    except MissingCapability as error: texts.add(str(error))
pool.close()
tell([sorted(texts), time.monotonic() - begun])
"""
    )
    assert len(texts) == 1
    assert seconds < 12


def test_a_sandbox_that_is_built_at_the_second_try_is_linked(caller: Caller) -> None:
    """Something that its plan mounts may be gone, or its init's program may not be executable, after its link was made."""
    told = caller.run(
        """
from pytest_isolate.kernel.namespaces import CLONE_NEWNET
from pytest_isolate.kernel.syscalls import unshare
from pytest_isolate.sandbox.builder_process import _libraries
from pytest_isolate.sandbox.identity import enter_run_namespace
from pytest_isolate.sandbox.networks import Networks
rootless = enter_run_namespace().rootless
signal.signal(signal.SIGCHLD, signal.SIG_IGN)

def init():
    told, tell = os.pipe()
    if (pid := os.fork()) == 0:
        unshare(CLONE_NEWNET)
        os.write(tell, b"x")
        time.sleep(30)
    os.read(told, 1)
    return pid

networks = Networks("run", os.getcwd(), rootless=rootless, uplink="auto", libraries=_libraries(), builder=os.pidfd_open(os.getpid()))
spec = Spec(net=parse_key("net", {"internal": True}, "/"))
networks.resolver(spec.net)
found = []
for number in range(3):
    first, second = init(), init()
    networks.begin(number, spec, first)
    os.kill(first, signal.SIGKILL)
    networks.begin(number, spec, second)
    found.append(networks.finish()["address"]["network"])
    os.kill(second, signal.SIGKILL)
networks.close()
tell(found)
"""
    )
    assert told == ["bridge"] * 3


def test_hardware_address_passes_to_the_next_sandbox_at_once(caller: Caller) -> None:
    """Nor does a sandbox that had joined the first one's network answer for it any more."""
    told = caller.run(
        PRELUDE
        + """
net = {**INTERNAL, "network": "tiny", "subnet": "10.99.233.0/24"}
same = {**net, "mac": "02:00:00:00:00:01"}
with box(net=same, name="one") as one, box(net="container:one") as joined, box(net=net) as client:
    ip = one.address.ip
    one.release()
    with box(net=same) as two:
        tell([ip != two.address.ip, connect(two, client.address.ip), connect(joined, client.address.ip, timeout=1)])
"""
    )
    assert told == [True, "ConnectionRefusedError", "TimeoutError"]
