"""What dies when a process of a run with bridge networks is killed, and what the others are told."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from tests.support.callers import Caller, caller

__all__ = ["caller"]

HUB = """
INTERNAL = {"internal": True}

def children(pid):
    return [int(child) for child in open(f"/proc/{pid}/task/{pid}/children").read().split()]

def hub():
    builder = POOL.launch().pid
    found = [pid for pid in children(builder) if open(f"/proc/{pid}/comm").read().strip() == "isolate-network"]
    assert len(found) == 1, found
    return builder, found[0]

def gone(pid):
    for _ in range(500):
        try:
            if open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] == "Z": return True
        except FileNotFoundError: return True
        time.sleep(0.01)
    return False
"""


def test_hub_that_is_killed_is_named_and_the_next_sandbox_gets_another(caller: Caller) -> None:
    text, interfaces, again = caller.run(
        HUB
        + """
with box(net=INTERNAL) as one:
    _, pid = hub()
    os.kill(pid, signal.SIGKILL)
    assert gone(pid)
    # The kernel takes down the namespace, and the links with it, a moment after the process.
    for _ in range(500):
        interfaces = one.run([PYTHON, "-I", "-S", "-c", "import socket; print(*[name for _, name in socket.if_nameindex()])"]).stdout.decode().split()
        if "eth0" not in interfaces: break
        time.sleep(0.01)
    try: one.contacts()
    except SetupError as error: text = str(error)
with box(net=INTERNAL) as two:
    again = two.run([PYTHON, "-I", "-S", "-c", "import socket; print(*[name for _, name in socket.if_nameindex()])"]).stdout.decode().split()
tell([text, interfaces, again])
"""
    )
    assert "ended: it was killed" in text
    assert interfaces == ["lo"]
    assert again == ["lo", "eth0"]


@pytest.mark.parametrize("victim", ["builder", "pytest"])
def test_nothing_is_left_after_sigkill(caller: Caller, victim: str) -> None:
    before = set(os.listdir("/sys/class/net"))
    done = caller.process(
        HUB
        + """
opened = box(net=INTERNAL, publish=["8080"]).__enter__()
builder, pid = hub()
link = os.readlink(f"/proc/{opened.init_pid}/ns/net")
tell([builder, pid, opened.init_pid, opened.ports[8080, "tcp"][1]])
os.kill(VICTIM, signal.SIGKILL)
gone(pid)
""".replace("VICTIM", "builder" if victim == "builder" else "os.getpid()")
    )
    builder, hub, init, port = json.loads(done.stdout.splitlines()[0])
    assert all(_ends(pid) for pid in (builder, hub, init))
    assert set(os.listdir("/sys/class/net")) == before
    assert f":{port:04X} 00000000:0000 0A" not in Path("/proc/net/tcp").read_text()


def _ends(pid: int) -> bool:
    for _ in range(500):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


def test_two_runs_at_once_have_networks_of_their_own(caller: Caller) -> None:
    different, answers = caller.run(
        HUB
        + """
code = "import socket, sys; s = socket.create_server(('0.0.0.0', 8080)); print('up', flush=True); s.accept()"
other_pool = Pool(cgroup=CGROUP, depth=0)
try:
    with box(name="a", net=INTERNAL) as a, Sandbox(a.spec, pool=other_pool, name="a") as b:
        process = a.popen([PYTHON, "-I", "-S", "-c", code], stdout=subprocess.PIPE); process.stdout.readline()
        ask = "import socket, sys\\ntry: socket.create_connection((sys.argv[1], 8080), timeout=1); print('connected')\\nexcept OSError as error: print(type(error).__name__)"
        answers = [b.run([PYTHON, "-I", "-S", "-c", ask, host]).stdout.decode().strip() for host in (a.address.ip, "a")]
        tell([a.address.subnet != b.address.subnet, answers])
finally:
    other_pool.close()
"""
    )
    assert different
    assert answers[0] in ("OSError", "TimeoutError")
    assert answers[1] == "ConnectionRefusedError"


def test_a_fixed_internal_subnet_is_no_other_run_s_business(caller: Caller) -> None:
    # As under xdist, where each worker is a run of its own.
    same, overlapping = caller.run(
        """
net = {"network": "fixed", "internal": True, "subnet": "10.77.3.0/24", "ip": "10.77.3.5"}
other_pool = Pool(cgroup=CGROUP, depth=0)
try:
    with box(net=net) as one, Sandbox(one.spec, pool=other_pool) as other:
        same = one.address == other.address
        try: box(net={"network": "second", "internal": True, "subnet": "10.77.0.0/16"}).__enter__()
        except SetupError as error: overlapping = str(error)
finally:
    other_pool.close()
tell([same, overlapping])
"""
    )
    assert same
    assert "claim a subnet 10.77.0.0/16" in overlapping
