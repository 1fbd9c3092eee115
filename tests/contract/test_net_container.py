"""net="container:NAME": two sandboxes with one network namespace, as root and as an unprivileged user."""

from __future__ import annotations

from tests.support.callers import Caller, caller

__all__ = ["caller"]


def test_loopback_servers_of_the_other_sandbox_are_reached(caller: Caller) -> None:
    same, answer = caller.run(
        """
server = "import socket; s = socket.create_server((\\"127.0.0.1\\", 8080)); print(\\"up\\", flush=True); c, _ = s.accept(); c.sendall(b\\"hello\\")"
with box(name="db") as db:
    process = db.popen([PYTHON, "-I", "-S", "-c", server], stdout=subprocess.PIPE)
    process.stdout.readline()
    with box(net="container:db") as other:
        code = "import os, socket; print(os.readlink('/proc/self/ns/net'), socket.create_connection(('127.0.0.1', 8080)).recv(5).decode())"
        link, answer = other.run([PYTHON, "-I", "-S", "-c", code], check=True, timeout=30).stdout.decode().split()
        own = db.run([PYTHON, "-I", "-S", "-c", "import os; print(os.readlink('/proc/self/ns/net'))"], check=True).stdout.decode().strip()
        tell([link == own, answer])
"""
    )
    assert same
    assert answer == "hello"


def test_every_other_namespace_is_its_own(caller: Caller) -> None:
    differing = caller.run(
        """
code = "import json, os; print(json.dumps({name: os.readlink(f'/proc/self/ns/{name}') for name in os.listdir('/proc/self/ns')}))"
with box(name="db") as db, box(net="container:db") as other:
    one, two = (json.loads(opened.run([PYTHON, "-I", "-S", "-c", code], check=True).stdout) for opened in (db, other))
    tell(sorted(name for name in one if one[name] != two[name]))
"""
    )
    assert {"user", "pid", "mnt", "uts", "ipc"} <= set(differing)
    assert "net" not in differing


def test_unknown_and_ended_sandboxes_are_named(caller: Caller) -> None:
    unknown, ended = caller.run(
        """
def refused():
    try:
        box(net="container:db").__enter__()
    except IsolateError as error:
        return str(error)
with box(name="web"):
    unknown = refused()
with box(name="db"):
    pass
tell([unknown, refused()])
"""
    )
    assert 'net="container:db": no sandbox of the run has that name; there: web' in unknown
    assert "isolate_factory(name='db')" in unknown
    assert 'net="container:db": that sandbox has ended' in ended


def test_a_name_is_one_sandboxs_at_a_time(caller: Caller) -> None:
    refused, again = caller.run(
        """
with box(name="db"):
    try:
        box(name="db").__enter__()
    except SetupError as error:
        refused = str(error)
with box(name="db") as second:
    again = second.alive()
tell([refused, again])
"""
    )
    assert "name a sandbox db: EEXIST" in refused
    assert again


def test_the_network_lives_on_while_somebody_is_in_it(caller: Caller) -> None:
    assert (
        caller.run(
            """
with box(name="db") as db:
    other = box(net="container:db").__enter__()
    process = other.popen(["sleep", "60"])
code = "import socket; s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname()); print('ok')"
tell(other.run([PYTHON, "-I", "-S", "-c", code], check=True).stdout.decode())
process.send_signal(9); process.wait(); other.release()
"""
        )
        == "ok\n"
    )


def test_joining_a_sandbox_in_the_hosts_network(caller: Caller) -> None:
    told = caller.run(
        """
with socket.create_server(("127.0.0.1", 0)) as server:
    code = f"import os, socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]})); print(os.readlink('/proc/self/ns/net'))"
    with box(name="out", net="host"), box(name="joined", net="container:out") as joined, box(net="container:joined", user="root") as third:
        found = [opened.run([PYTHON, "-I", "-S", "-c", code], check=True).stdout.decode().strip() for opened in (joined, third)]
tell([found, os.readlink("/proc/self/ns/net")])
"""
    )
    found, host = told
    assert found == [host, host]
