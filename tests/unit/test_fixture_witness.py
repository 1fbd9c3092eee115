from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import timeit
from pathlib import Path

import pytest

from pytest_isolate.kernel import inet_sockets
from pytest_isolate.model.spec import Spec
from pytest_isolate.plugin import witness
from pytest_isolate.plugin.witness import Held, added, look


def test_thread_child_and_sockets_made_between_two_looks_are_found(tmp_path: Path) -> None:
    stop = threading.Event()
    before = look()
    thread = threading.Thread(target=stop.wait, name="server-loop", daemon=True)
    thread.start()
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    tcp = socket.create_server(("127.0.0.1", 0))
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(str(tmp_path / "s"))
    plain = open(tmp_path / "file", "w")
    try:
        held = added(before, look())
        assert [name for _, name in held.threads] == ["server-loop"]
        assert [pid for pid, _ in held.children] == [child.pid]
        assert [fd for fd, _ in held.sockets] == sorted([tcp.fileno(), unix.fileno()])
        text = "\n".join(witness._described(held))
        assert "thread 'server-loop'" in text
        assert "time.sleep(60)" in text
        assert f"TCP socket listening on 127.0.0.1:{tcp.getsockname()[1]}" in text
        assert f"UNIX socket {tmp_path / 's'}" in text
    finally:
        stop.set()
        thread.join()
        child.kill()
        child.wait()
        tcp.close()
        unix.close()
        plain.close()
    assert not held.alive()


def test_socket_that_takes_the_first_free_descriptor_is_found() -> None:
    """The listing of /proc/self/fd holds its own descriptor, which is just that number."""
    before = look()
    with socket.socket() as sock:
        assert [fd for fd, _ in added(before, look()).sockets] == [sock.fileno()]


def test_nothing_made_between_two_looks_is_nothing_held() -> None:
    before = look()
    assert added(before, look()) == Held()


def test_child_of_a_thread_is_found() -> None:
    started: list[subprocess.Popen[bytes]] = []
    stop = threading.Event()

    def body() -> None:
        started.append(subprocess.Popen(["sleep", "60"]))
        stop.wait()

    before = look()
    thread = threading.Thread(target=body)
    thread.start()
    try:
        while not started:
            time.sleep(0.001)
        assert [pid for pid, _ in added(before, look()).children] == [started[0].pid]
    finally:
        stop.set()
        thread.join()
        started[0].kill()
        started[0].wait()


def test_ipv6_addresses_are_read_in_the_kernels_byte_order() -> None:
    before = look()
    try:
        server = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        assert inet_sockets._address("00000000000000000000000001000000:1F90") == ("::1", 8080)
        return
    with server:
        (line,) = witness._described(added(before, look()))
        assert f"listening on [::1]:{server.getsockname()[1]}" in line


def test_remedy_names_the_network_only_for_sockets() -> None:
    assert "net=" not in witness._remedy([Held(threads=((1, "x"),))], Spec())
    remedy = witness._remedy([Held(sockets=((1, "socket:[1]"),))], Spec())
    assert 'net="host"' in remedy
    assert "forward=" not in remedy
    assert 'forward="fixtures"' in witness._remedy([Held(sockets=((1, "socket:[1]"),))], Spec(forward="none"))


def test_section_is_absent_while_no_fixture_holds_anything() -> None:
    assert witness.Witness().section({"a"}, Spec()) is None


def test_two_looks_cost_less_than_a_wide_set_up_would_notice() -> None:
    """Measured: 35 to 60 µs for one look; the bound leaves room for a busy machine."""
    assert min(timeit.repeat(lambda: added(look(), look()), number=20, repeat=5)) / 20 < 0.002


@pytest.mark.parametrize("gone", ["/proc/self/task/0/comm", "/nowhere"])
def test_missing_files_read_as_empty(gone: str) -> None:
    assert witness._text(gone) == ""
    assert witness._ids(gone) == frozenset()
    assert witness._link(os.sysconf("SC_OPEN_MAX") + 1) == ""
