"""A run's network in small, in which its parts are tested: read as text, and begun in front of a test's code by its caller.

`enter` makes the caller root of a network namespace of its own, by a user namespace if need be. `Network` is a bridge in it, with
`Box`es: processes in network namespaces of their own that run code on request.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import traceback
from typing import Any

from pytest_isolate.kernel.namespaces import CLONE_NEWNET, CLONE_NEWNS, loopback_up
from pytest_isolate.kernel.syscalls import unshare
from pytest_isolate.sandbox.identity import enter_run_namespace

SUBNET, SUBNET6 = "10.99.0.", "fd00:99::"


def tell(value: Any) -> None:
    print(json.dumps(value), flush=True)


def enter() -> None:
    """Before any thread is started."""
    enter_run_namespace()
    new_network()


def new_network() -> None:
    unshare(CLONE_NEWNET)
    loopback_up()


class Box:
    """A process with an interface ``eth0``, whose other end is a port of the bridge. Names assigned by its code stay."""

    def __init__(self, network: Network, number: int) -> None:
        self.address, self.address6 = f"{SUBNET}{number}", f"{SUBNET6}{number}"
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            ours.close()
            unshare(CLONE_NEWNET | CLONE_NEWNS)
            _serve(theirs)
        theirs.close()
        self._channel = ours
        self.call("result = None")  # its namespace is there
        rt, self.port = network.rt, f"port{number}"
        rt.link("add", ifname=self.port, kind="veth", peer={"ifname": "eth0", "net_ns_pid": self.pid})
        self.port_index = rt.link_lookup(ifname=self.port)[0]
        rt.link("set", index=self.port_index, master=network.index, state="up")
        self.call(f"""
            from pyroute2 import IPRoute
            rt = IPRoute()
            loopback_up()
            index = rt.link_lookup(ifname="eth0")[0]
            rt.link("set", index=index, state="up")
            rt.addr("add", index=index, address="{self.address}", prefixlen=24)
            rt.addr("add", index=index, address="{self.address6}", prefixlen=64, flags=0x02)
            rt.route("add", dst="default", gateway="{SUBNET}1")
            result = None
        """)

    def call(self, code: str, **names: Any) -> Any:
        """What `code` assigns to `result`. Raises AssertionError with the traceback."""
        self._channel.send(json.dumps([code, names]).encode())
        told = json.loads(self._channel.recv(1 << 20))
        assert "trace" not in told, told["trace"]
        return told["result"]

    def end(self) -> None:
        self._channel.close()
        os.kill(self.pid, signal.SIGKILL)  # boxes that were made later hold copies of the channel
        os.waitpid(self.pid, 0)


def _serve(channel: socket.socket) -> None:
    import textwrap

    names: dict[str, Any] = {"loopback_up": loopback_up}
    while request := channel.recv(1 << 20):
        code, more = json.loads(request)
        names.update(more, result=None)
        try:
            exec(compile(textwrap.dedent(code), "box", "exec"), names)
            told = {"result": names["result"]}
        except BaseException:
            told = {"trace": traceback.format_exc()}
        channel.send(json.dumps(told).encode())
    os._exit(0)


class Network:
    """A bridge ``br0`` with the first address of a subnet, in the caller's network namespace."""

    def __init__(self) -> None:
        from pyroute2 import IPRoute

        self.rt = IPRoute()
        self.rt.link("add", ifname="br0", kind="bridge")
        self.index = self.rt.link_lookup(ifname="br0")[0]
        self.rt.addr("add", index=self.index, address=f"{SUBNET}1", prefixlen=24)
        self.rt.addr("add", index=self.index, address=f"{SUBNET6}1", prefixlen=64, flags=0x02)  # IFA_F_NODAD
        self.rt.link("set", index=self.index, state="up")
        self.boxes: list[Box] = []

    def box(self) -> Box:
        self.boxes.append(Box(self, len(self.boxes) + 2))
        return self.boxes[-1]

    def end(self) -> None:
        for box in self.boxes:
            box.end()
        self.rt.close()


if __name__ == "__main__":
    sys.exit("this is the beginning of tests' code")
