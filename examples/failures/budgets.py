"""Look for: `B` in the line of dots, `OVER BUDGET` below, and for each test what it used, what it was allowed, and what to change.

Every test keeps all budgets but the one it is named for. `memory` and `memory_own` differ in what the test copies of pytest's own
memory by writing to it.
"""

import os
import subprocess
import sys
import threading
import time

import pytest

MADE_BY_PYTEST = bytearray(32 << 20)
SERVERS = []
NET = {"mode": "bridge", "internal": True}
SERVER = """
import socket
server = socket.create_server(("", 7000))
while True:
    connection, _ = server.accept()
    with connection:
        connection.sendall(bytes(200_000))
        while connection.recv(1 << 16): pass
"""


@pytest.mark.isolate(budget={"cpu": "200ms"})
def test_cpu():
    while time.process_time() < 0.5:
        pass


@pytest.mark.isolate(budget={"cpu": "5s", "wall": "200ms"})
def test_wall():
    time.sleep(0.4)


@pytest.mark.isolate(budget={"memory": "24MiB", "memory_own": "24MiB"})
def test_memory():
    for page in range(0, len(MADE_BY_PYTEST), 4096):
        MADE_BY_PYTEST[page] = 1


@pytest.mark.isolate(budget={"memory": "1GiB", "memory_own": "24MiB"})
def test_memory_own():
    bytearray(48 << 20)


@pytest.mark.isolate(budget={"pids": 4})
def test_pids():
    threads = [threading.Thread(target=time.sleep, args=(0.2,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.isolate(budget={"io_write": "1MB"})
def test_io_write(tmp_path):
    write(tmp_path / "data", 4_000_000)


@pytest.mark.isolate(budget={"io_read": "1MB"})
def test_io_read(tmp_path):
    write(tmp_path / "data", 4_000_000)
    with open(tmp_path / "data", "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.read()


def write(path, size):
    with open(path, "wb") as file:
        file.write(os.urandom(size))
        os.fsync(file.fileno())


@pytest.fixture(scope="module")
def server(isolate_factory):
    box = isolate_factory("server", net=NET)
    box.popen([sys.executable, "-c", SERVER])
    box.wait_for_port(7000)


def talk(size):
    import socket

    with socket.create_connection(("server", 7000)) as connection:
        connection.sendall(bytes(size))
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 16):
            pass


@pytest.mark.isolate(net=NET, budget={"net_rx": "100kB", "net_tx": "100kB"})
def test_net_rx(server):
    talk(10)


@pytest.mark.isolate(net=NET, budget={"net_rx": "1MB", "net_tx": "100kB"})
def test_net_tx(server):
    talk(200_000)


@pytest.mark.isolate(budget={"disk": "1MB"})
def test_disk():
    with open("scratch", "wb") as file:
        file.write(bytes(4_000_000))


@pytest.mark.isolate(budget={"processes_left": 0})
def test_processes_left():
    SERVERS.append(subprocess.Popen(["sleep", "600"]))


@pytest.mark.isolate(budget={"cpu": "10s", "memory": "64MiB", "wall": "10s", "pids": 4, "disk": "1MB", "processes_left": 0})
def test_within_all_of_them():
    pass
