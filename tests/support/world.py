"""A host and an outside world, in network namespaces of their own, so that tests of uplinks touch nothing of the machine that they run on.

`World` has a host with the addresses HOST4 and HOST6 on ``eth0`` and default routes to WORLD4 and WORLD6, where a server tells
whoever connects (TCP and UDP, port 80) which address it comes from. On the host, the same servers listen on its loopback only
(port 8080) and on every address (port 8081). `World.run` runs code there, as root or as an unprivileged user, that begins with `PRELUDE`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any, Final, Self

from tests.support.unprivileged import USER_ID, find_python, package_tree

__all__ = ["HOST4", "HOST6", "WORLD4", "WORLD6", "World"]

HOST4, HOST6 = "203.0.113.2", "2001:db8:1::2"
WORLD4, WORLD6 = "203.0.113.1", "2001:db8:1::1"

_ROOT: Final = Path(__file__).parents[2]

_SERVER: Final = """
import select, socket, sys
sockets = []
for place in sys.argv[1:]:
    address, _, port = place.rpartition("@")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, int(port)), family=family, dualstack_ipv6=address == "::")
    datagrams = socket.socket(family, socket.SOCK_DGRAM)
    if address == "::":
        datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    datagrams.bind((address, int(port)))
    sockets += [listener, datagrams]
print("ready", flush=True)
while True:
    for ready in select.select(sockets, [], [])[0]:
        if ready.type == socket.SOCK_STREAM:
            connection, peer = ready.accept()
            connection.sendall(peer[0].removeprefix("::ffff:").encode())
            connection.close()
        else:
            _data, peer = ready.recvfrom(100)
            ready.sendto(peer[0].removeprefix("::ffff:").encode(), peer)
"""

PRELUDE: Final = """
import json, os, signal, socket, subprocess, sys, time
from ipaddress import IPv4Network, IPv6Network
from pyroute2 import IPRoute
from pytest_isolate.kernel.cgroup_runs import run_name
from pytest_isolate.kernel.namespaces import CLONE_NEWNET, loopback_up
from pytest_isolate.kernel.syscalls import unshare
from pytest_isolate.model.errors import *
from pytest_isolate.network.addresses import claim, host_networks, unique_local
from pytest_isolate.network.host_thread import HostThread
from pytest_isolate.network.uplink import open_uplink
from pytest_isolate.sandbox.identity import enter_run_namespace

def tell(value):
    print(json.dumps(value), flush=True)

def fetch(address, port=80, udp=False, timeout=3):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM) as asking:
            asking.settimeout(timeout)
            asking.connect((address, port))
            if udp:
                asking.send(b"?")
            return asking.recv(100).decode()
    except OSError as error:
        return type(error).__name__

class Run:
    # What the hub does: the run's network, with one bridge and one client on it.
    def __init__(self, wanted="auto", **more):
        self.rootless = enter_run_namespace().rootless
        self.outside = HostThread()
        self.host = IPRoute()
        unshare(CLONE_NEWNET)
        loopback_up()
        self.inside = IPRoute()
        self.name = run_name(os.getpid())
        self.uplink = self.open(wanted, **more)
        self.claim = claim(host_networks(self.host), run=self.name)
        self.subnet, self.subnet6 = self.claim.subnet, unique_local(self.name, "test")
        self.uplink.admit(self.subnet, self.subnet6)
        self.bridge()

    def open(self, wanted):
        return open_uplink(self.host, self.inside, run=self.name, rootless=self.rootless, wanted=wanted, outside=self.outside)

    def bridge(self):
        rt = self.inside
        self.client = HostThread()
        self.client.call(lambda: unshare(CLONE_NEWNET))
        namespace = self.client.call(lambda: os.open("/proc/thread-self/ns/net", os.O_RDONLY))
        rt.link("add", ifname="br0", kind="bridge")
        rt.link("add", ifname="port0", kind="veth", peer={"ifname": "eth0", "net_ns_fd": namespace})
        bridge, port = (rt.link_lookup(ifname=name)[0] for name in ("br0", "port0"))
        rt.addr("add", index=bridge, address=str(self.subnet[1]), prefixlen=24)
        rt.addr("add", index=bridge, address=str(self.subnet6[1]), prefixlen=64, flags=2)
        rt.link("set", index=port, master=bridge, state="up")
        rt.link("set", index=bridge, state="up")
        self.client.call(self.configure)

    def configure(self):
        with IPRoute() as rt:
            index = rt.link_lookup(ifname="eth0")[0]
            rt.link("set", index=index, state="up")
            rt.addr("add", index=index, address=str(self.subnet[9]), prefixlen=24)
            rt.addr("add", index=index, address=str(self.subnet6[9]), prefixlen=64, flags=2)
            rt.route("add", dst="default", gateway=str(self.subnet[1]))
            rt.route("add", dst="default", gateway=str(self.subnet6[1]), family=socket.AF_INET6)

    def end(self):
        self.uplink.close()
        self.claim.release()

    def fetch(self, *args, **named):
        return self.client.call(lambda: fetch(*args, **named))
"""


class World:
    """See the module. For root only."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        try:
            # The device is every user's, as udev makes it; machines without udev have root's. Records of other runs are out of sight.
            self._host = self._hold(
                "mount -t tmpfs -o mode=755 none /dev/net && mknod -m 666 /dev/net/tun c 10 200 &&"
                "mount -t tmpfs -o mode=755 none /run && mkdir -m 1777 /run/lock"
            )
            self._world = self._hold("true")
            self.on_host(
                f"sysctl -q -w net.ipv6.conf.default.accept_dad=0; ip link set lo up; ip link add eth0 type veth peer name eth0 netns {self._world}; ip link set eth0 up;"
                f"ip addr add {HOST4}/24 dev eth0; ip addr add {HOST6}/64 dev eth0 nodad"
            )
            self.in_world(
                f"sysctl -q -w net.ipv6.conf.eth0.accept_dad=0; ip link set lo up; ip link set eth0 up; ip addr add {WORLD4}/24 dev eth0; ip addr add {WORLD6}/64 dev eth0 nodad"
            )
            self.on_host(f"ip route add default via {WORLD4}; ip route add default via {WORLD6}")
            self._serve(self._world, "::@80")
            self._serve(self._host, "127.0.0.1@8080", "::1@8080", "::@8081")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.communicate()

    def on_host(self, command: str) -> str:
        """What a shell command prints, run as root on the host. Raises AssertionError if it fails."""
        return self._shell(self._host, command)

    def in_world(self, command: str) -> str:
        """The same, outside of the host."""
        return self._shell(self._world, command)

    def state(self) -> list[str]:
        """Interfaces, addresses, routes, rules and settings of the host's network: to be compared before and after.

        The settings of an interface may vanish while they are read.
        """
        return self.on_host(
            "ip -o link; ip -o addr; ip route show table all; ip -6 route show table all; nft -s list ruleset; iptables-legacy-save | grep '^-A' || true;"
            "grep -rs . /proc/sys/net/ipv4/conf/*/forwarding /proc/sys/net/ipv6/conf/*/*forwarding || true; cat /proc/sys/net/ipv4/ip_forward;"
            "ls /run/pytest-isolate/*.json /run/lock/pytest-isolate-subnets/* 2>/dev/null || true"
        ).splitlines()

    def run(self, code: str, *, user: bool = False, path: str = "") -> Any:
        """The JSON document that `code` printed last, run on the host. Fails the test with its output where it fails.

        Args:
            user: as the unprivileged user, else as root.
            path: put before PATH.
        """
        process = self.start(code, user=user, path=path)
        try:
            stdout, stderr = process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.returncode == 0, stdout + stderr
        return json.loads(stdout.splitlines()[-1])

    def start(self, code: str, *, user: bool = False, path: str = "") -> subprocess.Popen[str]:
        """`code` in a process whose lines can be read; ended with the world, if not before."""
        python = [str(find_python())] if user else [sys.executable]
        become = ["setpriv", f"--reuid={USER_ID}", f"--regid={USER_ID}", "--clear-groups"] if user else []
        env = {
            "PATH": f"{path}:{os.environ['PATH'] if not user else os.defpath}:/usr/sbin:/sbin".lstrip(":"),
            "PYTHONPATH": str(package_tree() if user else _ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LC_ALL": "C.UTF-8",
        }
        return self._begin([*self._inside(self._host), *become, *python, "-c", PRELUDE + code], env)

    def wait_until_gone(self, text: str, seconds: float = 30.0) -> None:
        """Until nothing of the host's network says `text`. One kernel worker takes namespaces down, a moment after their last process, and everybody's one after the other."""
        deadline = time.monotonic() + seconds
        while any(text in line for line in self.state()):
            assert time.monotonic() < deadline, text
            time.sleep(0.02)

    def _hold(self, command: str) -> int:
        process = self._begin(["unshare", "-n", "-m", "sh", "-c", f"{command} && echo ready && exec sleep infinity"])
        assert _line(process) == "ready"
        return process.pid

    def _serve(self, pid: int, *places: str) -> None:
        assert _line(self._begin([*self._inside(pid), sys.executable, "-c", _SERVER, *places])) == "ready"

    def _begin(self, command: list[str], env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, cwd="/"
        )
        self._processes.append(process)
        return process

    @staticmethod
    def _inside(pid: int) -> list[str]:
        return ["nsenter", "-t", str(pid), "-n", "-m"]

    def _shell(self, pid: int, command: str) -> str:
        done = subprocess.run([*self._inside(pid), "sh", "-c", f"set -e; {command}"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout


def _line(process: subprocess.Popen[str]) -> str:
    stream: IO[str] | None = process.stdout
    assert stream is not None
    return stream.readline().strip()
