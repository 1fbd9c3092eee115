"""The hub: the process that holds the bridge networks of a run, in a network namespace of its own.

It is a fork of the builder, not an exec'ed program: an unprivileged user's builder has its capabilities in the run's user
namespace, and an exec would lose them. pyroute2, whose import takes a tenth of a second and megabytes, is loaded only here.
When the hub ends, the kernel takes down its namespace, and with it bridges, links and rules; so it ends when the builder does.

Three threads: this one wires, in the run's namespace; the name server's was started before the namespace was entered, so what it asks
leaves from the host's; the relay of published ports connects from the run's.

Messages in:  {"op": "network", net}; {"op": "attach", "n", "net", "bandwidth"} with the sandbox's namespace; {"op": "activate", "n", "names", "ports"}
with listening sockets; {"op": "release", "n", "delete"}; {"op": "contacts" | "unpublish", "n"}; {"op": "cut" | "mend", "n", "m", "from"} with the
namespaces to do it in, each from the sandbox that stands in its place in "from"
Messages out: one to each but release: the answer, or {"error"}
"""

from __future__ import annotations

import gc
import ipaddress
import os
import select
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NoReturn

from pytest_isolate.kernel.channel import Channel
from pytest_isolate.kernel.namespaces import CLONE_NEWNET, loopback_up
from pytest_isolate.kernel.rtnetlink import Route
from pytest_isolate.kernel.syscalls import unshare
from pytest_isolate.model.errors import IsolateError, SetupError
from pytest_isolate.model.net import Bandwidth, Net

__all__ = ["NAME", "run_hub"]

NAME: Final = "isolate-network"
"""As ps(1) shows it: 15 bytes at most."""

_DNS: Final = 53


class Hub:
    """The networks of one run.

    Args:
        channel: to the builder.
        run: its name.
        rootless: the caller's capabilities hold in a user namespace only.
        uplink: how to reach the outside: ``auto``, or a kind of `open_uplink`.
    """

    def __init__(self, channel: Channel, run: str, *, rootless: bool, uplink: str) -> None:
        from pyroute2 import IPRoute

        from pytest_isolate.network.host_thread import HostThread
        from pytest_isolate.network.names import NameServer, host_upstreams
        from pytest_isolate.network.outbound import Outbound
        from pytest_isolate.network.relay import Relay
        from pytest_isolate.network.router import keep_off_packet_filters, use_ipv6

        self._channel = channel
        self._run = run
        self._host = IPRoute()
        outside = HostThread()
        self._names = NameServer(host_upstreams())
        unshare(CLONE_NEWNET)
        loopback_up()
        self._rt, self._route = IPRoute(), Route()
        use_ipv6("default", on=False)
        keep_off_packet_filters()
        self._outbound = Outbound(self._host, self._rt, outside, run, rootless=rootless, wanted=uplink)
        self._relay = Relay()
        self._networks: dict[str, tuple[int, Any]] = {}
        self._claims: list[Any] = []
        self._watch: Any = None
        self._next = 0
        self._of: dict[int, str] = {}

    def serve(self, builder: int) -> None:
        """Until the builder closes the channel or ends. `builder` is its pidfd."""
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        poll.register(builder, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if self._channel.fileno() not in ready or (received := self._channel.receive()) is None:
                return
            message, fds = received
            try:
                if (answer := self._answer(message, fds)) is not None:
                    self._channel.send(answer)
            finally:
                for fd in fds:
                    with suppress(OSError):  # the relay has it now
                        os.close(fd)

    def _answer(self, message: dict[str, Any], fds: list[int]) -> dict[str, Any] | None:
        operations: dict[str, Callable[[dict[str, Any], list[int]], dict[str, Any] | None]] = {
            "network": self._network,
            "attach": self._attach,
            "activate": self._activate,
            "release": self._release,
            "contacts": self._contacts,
            "unpublish": self._unpublish,
            "cut": self._partition,
            "mend": self._partition,
        }
        try:
            return operations[message["op"]](message, fds)
        except IsolateError as error:
            known: IsolateError = error
        except OSError as error:
            known = SetupError.from_os_error("wire a network", error)
        except Exception as error:  # noqa: BLE001 - the other sandboxes keep their networks, whatever went wrong with this one
            known = SetupError("wire a network", detail=repr(error))
        # Nobody waits for the answer to a release: it would be taken for that to the next question, and so on with each one.
        return {"error": known.to_json()} if message["op"] != "release" else None

    # --- networks ---

    def _network(self, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        del fds
        _number, network = self._known(Net.from_json(message["net"]))
        return {"gateway": str(network.pool.gateway), "notes": [f"bridge networks: {note}" for note in self._outbound.notes]}

    def _known(self, net: Net) -> tuple[int, Any]:
        name = str(net.network)
        if name not in self._networks:
            self._networks[name] = self._create(name, net)
        self._networks[name][1].refuse_other(net)
        return self._networks[name]

    def _create(self, name: str, net: Net) -> tuple[int, Any]:
        from pytest_isolate.network.addresses import unique_local
        from pytest_isolate.network.bridge import Network
        from pytest_isolate.network.routing import separate

        number = self._next
        self._next += 1
        if not net.internal:
            self._outbound.open(ipv6=net.ipv6)
        claimed = self._subnet_for(net)
        try:
            subnet6 = unique_local(self._run, name) if net.ipv6 else None
            network = Network.create(self._rt, self._route, number, net, claimed.subnet, subnet6)
            try:
                separate(self._rt, number, network, list(self._networks.values()))
                if not net.internal:
                    self._outbound.let_out(number, network)
                self._serve_names(network, recurse=not net.internal)
                self._watch_over(network)
            except BaseException:
                network.remove()
                raise
        except BaseException:
            claimed.release()
            raise
        self._claims.append(claimed)
        return number, network

    def _subnet_for(self, net: Net) -> Any:
        """Raises SetupError where it can't be had."""
        from pytest_isolate.network.addresses import OwnSubnet, claim, host_networks

        wanted = _subnet_of(net)
        own = [network.pool.subnet for _, network in self._networks.values()]
        if wanted is not None and net.internal and not any(other.overlaps(wanted) for other in own):
            return OwnSubnet(wanted)
        return claim([*host_networks(self._host), *own], wanted, run=self._run)

    def _serve_names(self, network: Any, *, recurse: bool) -> None:
        address = (str(network.pool.gateway), _DNS)
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(address)
        tcp = socket.create_server(address)
        subnets = [network.pool.subnet, *([network.subnet6] if network.subnet6 is not None else [])]
        self._names.serve(network.name, udp, tcp, recurse=recurse, subnets=subnets)

    def _watch_over(self, network: Any) -> None:
        from pytest_isolate.network.watch import Watch

        gateways = [address for address in (str(network.pool.gateway), network.gateway6) if address is not None]
        if self._watch is None:
            self._watch = Watch(network.interface, gateways)
        else:
            self._watch.add(network.interface, gateways)

    # --- sandboxes ---

    def _attach(self, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        net = Net.from_json(message["net"])
        quality = Bandwidth(**message["bandwidth"]) if message["bandwidth"] else None
        _number, network = self._known(net)

        address = network.attach(message["n"], net, fds[0], _shaper(quality) if quality is not None else None)
        self._of[message["n"]] = network.name
        for own in _addresses(network.links[message["n"]]):
            self._watch.take(own)  # what its former holder did
        return {"address": address.to_json()}

    def _activate(self, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        """The sandbox is handed out: from now on it has its names and published ports."""
        number = message["n"]
        link = self._link(number)
        names = tuple(name.lower() for name in message["names"])
        if names:
            self._names.add(self._of[number], names, _addresses(link))
            link.names = names
        for fd, (port, family) in zip(fds, message["ports"], strict=True):
            target = link.address.ip if family == socket.AF_INET or link.address.ip6 is None else link.address.ip6
            self._relay.open(str(number), socket.socket(fileno=os.dup(fd)), (target, port))
            link.published = True
        return {}

    def _release(self, message: dict[str, Any], fds: list[int]) -> None:
        del fds
        number = message["n"]
        name = self._of.pop(number, None)
        if name is None:
            return
        _, network = self._networks[name]
        link = network.detach(number, delete=message["delete"])
        if link is not None:
            if link.names:
                self._names.remove(name, link.names, _addresses(link))
            self._close_ports(number, link)

    def _unpublish(self, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        """The sandbox is given back; the host's ports are free when this is answered."""
        del fds
        self._close_ports(message["n"], self._link(message["n"]))
        return {}

    def _close_ports(self, number: int, link: Any) -> None:
        if link.published:
            self._relay.close(str(number))
            link.published = False

    def _link(self, number: int) -> Any:
        name = self._of.get(number)
        if name is None:
            raise SetupError("find a sandbox on its network", str(number), detail="it has ended")
        return self._networks[name][1].links[number]

    def _contacts(self, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        del fds
        link = self._link(message["n"])
        told = [self._watch.take(address) for address in _addresses(link)]
        return {"contacts": [contacts.to_json() for contacts in told]}

    def _partition(self, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        from pytest_isolate.network.bridge import INTERFACE_INDEX, inside, kernel_refused
        from pytest_isolate.network.partition import cut, mend

        one, other = self._link(message["n"]), self._link(message["m"])
        if one.address.network != other.address.network:
            raise SetupError(
                "partition", detail=f"they are on different networks, {one.address.network!r} and {other.address.network!r}",
                hint="networks of a run can't reach each other anyway",
            )  # fmt: skip
        change = cut if message["op"] == "cut" else mend
        for namespace, number in zip(fds, message["from"], strict=True):
            peer = self._link(number)
            with kernel_refused(message["op"], peer.address.ip), inside(namespace) as rt:
                change(rt, INTERFACE_INDEX, _addresses(peer))
        return {}

    def close(self) -> None:
        """Give back what the kernel doesn't take back by itself."""
        with suppress(IsolateError, OSError):
            self._outbound.close()
        for claimed in self._claims:
            with suppress(OSError):
                claimed.release()


def _shaper(quality: Bandwidth) -> Callable[[Any, int, str], None]:
    from pytest_isolate.network.shaping import shape

    return lambda rt, index, direction: shape(rt, index, getattr(quality, direction), quality)


def _subnet_of(net: Net) -> ipaddress.IPv4Network | None:
    """The subnet that was asked for; around a fixed address without one, its /24."""
    if net.subnet is not None:
        return ipaddress.IPv4Network(net.subnet)
    if net.ip is not None:
        return ipaddress.IPv4Network((net.ip, 24), strict=False)
    return None


def _addresses(link: Any) -> list[str]:
    return [link.address.ip, *([link.address.ip6] if link.address.ip6 is not None else [])]


def run_hub(channel: Channel, builder: int, run: str, *, rootless: bool, uplink: str) -> NoReturn:
    """The hub's life, in a fresh fork of the builder. Never returns. `builder` is the builder's pidfd."""
    with suppress(OSError), open("/proc/self/comm", "w", encoding="ascii") as file:
        file.write(NAME)
    gc.enable()  # the builder does without; sockets of pyroute2 are garbage that only a collection finds
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # the builder ignores it, and subprocess wants to wait
    try:
        hub = Hub(channel, run, rootless=rootless, uplink=uplink)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the builder must hear of it
        known = error if isinstance(error, IsolateError) else SetupError("start the network's process", detail=repr(error))
        channel.send({"error": known.to_json()})
        os._exit(1)
    try:
        channel.send({"ready": True})
        hub.serve(builder)
    finally:
        with suppress(BaseException):
            hub.close()
        os._exit(0)
