"""A bridge network in the run's network namespace, and the links of sandboxes to it. Only the hub imports this.

A link is a veth pair whose far end is made straight in the sandbox's namespace. It is not deleted when a sandbox ends: deleting one
waits for RCU, some 20 ms, while the kernel does it by itself, later and elsewhere, when the sandbox's namespace ends.
"""

from __future__ import annotations

import errno
import ipaddress
import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from pytest_isolate.kernel.namespaces import CLONE_NEWNET
from pytest_isolate.kernel.rtnetlink import Request, Route, add_address, add_default_route, add_veth, set_link
from pytest_isolate.kernel.syscalls import setns
from pytest_isolate.model.errors import SetupError
from pytest_isolate.model.net import Net
from pytest_isolate.network.attachment import INTERFACE, Address
from pytest_isolate.network.router import free_low_ports, use_ipv6

__all__ = [
    "INTERFACE_INDEX",
    "Link",
    "Network",
    "Pool",
    "index_of",
    "inside",
    "kernel_refused",
]

IPv4 = ipaddress.IPv4Address

_MTU: Final = 1500
FIRST_PORT: Final = 1000
"""Index of the first sandbox's end at a bridge: given and not asked for, as the sandbox's end has `INTERFACE_INDEX`."""

INTERFACE_INDEX: Final = 1000
"""Of the sandbox's end. Not 2, the first one after lo: where ipip, sit, gre or ip6_tunnel are loaded, each network namespace is born with
devices of theirs (net.core.fb_tunnels_only_for_init_net, Documentation/admin-guide/sysctl/net.rst)."""

Shape = Callable[[IPRoute, int, str], None]
_NODAD: Final = 0x02
"""IFA_F_NODAD: an address of ours is nobody else's, and checking it takes a second (ipv6, accept_dad)."""


@contextmanager
def kernel_refused(step: str, about: str = "", hint: str = "") -> Iterator[None]:
    """Turns what rtnetlink answers in the block into a SetupError."""
    try:
        yield
    except NetlinkError as error:
        number = abs(error.code)
        raise SetupError(step, about, number, hint or _HINTS.get(number, "")) from None
    except OSError as error:
        raise SetupError.from_os_error(step, error, about, hint or _HINTS.get(error.errno or 0, "")) from None


_HINTS: Final = {
    errno.EOPNOTSUPP: "this kernel has no such device: modprobe bridge veth (CONFIG_BRIDGE, CONFIG_VETH)",
    errno.EPERM: "the builder may not change networks here: in a container, allow CAP_NET_ADMIN or user namespaces",
    errno.ENOSPC: "a limit of the kernel's is reached, see /proc/sys/user/max_net_namespaces",
}


class Pool:
    """The host addresses of a subnet, handed out in turn, so that one that was given back is used again as late as possible."""

    def __init__(self, subnet: ipaddress.IPv4Network) -> None:
        self.subnet = subnet
        self._next = iter(subnet.hosts())
        self.gateway = next(self._next)
        self._free: deque[IPv4] = deque()
        self._taken: set[IPv4] = set()

    def take(self, network: str) -> IPv4:
        """Raises SetupError where none is left."""
        for address in self._next:
            if address not in self._taken:
                self._taken.add(address)
                return address
        while self._free:
            address = self._free.popleft()
            if address not in self._taken:
                self._taken.add(address)
                return address
        raise SetupError(
            "take an address",
            network,
            detail=f"all {self.subnet.num_addresses - 3} addresses of {self.subnet} are in use",
            hint='have fewer sandboxes at a time, or a larger subnet: net={"network": …, "subnet": "10.64.0.0/16"}',
        )

    def take_fixed(self, address: IPv4, network: str) -> IPv4:
        """Raises SetupError where it isn't of the subnet, or in use."""
        if address not in self.subnet or address in (self.gateway, self.subnet.network_address, self.subnet.broadcast_address):
            raise SetupError(
                "take an address", str(address), detail=f"it is no host address of network {network!r}, which has {self.subnet}",
                hint=f"give a subnet as well where the network is first used, or an address of {self.subnet} other than {self.gateway}",
            )  # fmt: skip
        if address in self._taken:
            raise SetupError(
                "take an address", str(address), errno.EADDRINUSE,
                f"another sandbox on network {network!r} has it: end that one before, or give this one another ip",
            )  # fmt: skip
        self._taken.add(address)
        return address

    def give_back(self, address: IPv4) -> None:
        if address in self._taken:
            self._taken.discard(address)
            self._free.append(address)


@dataclass(slots=True)
class Link:
    """One sandbox's.

    Attributes:
        index: of the end at the bridge.
        address: where the sandbox is.
        names: under which it is found.
        published: the relay serves ports of it on the host.
    """

    index: int
    address: Address
    names: tuple[str, ...] = ()
    published: bool = False


@dataclass(slots=True)
class Network:
    """One network of the run; made by `create`.

    Attributes:
        asked: what its first user asked of it.
        index: of the bridge.
        interface: its name.
        links: by number of the sandbox.
        former: by IPv4 address and by hardware address: the link of the sandbox that had it before.
    """

    asked: Net
    rt: IPRoute
    route: Route
    index: int
    interface: str
    pool: Pool
    subnet6: ipaddress.IPv6Network | None = None
    links: dict[int, Link] = field(default_factory=dict)
    former: dict[str, int] = field(default_factory=dict)

    @classmethod
    def create(
        cls,
        rt: IPRoute,
        route: Route,
        number: int,
        asked: Net,
        subnet: ipaddress.IPv4Network,
        subnet6: ipaddress.IPv6Network | None,
    ) -> Network:
        """A bridge with the gateway's address. Raises SetupError."""
        name = f"br{number}"
        with kernel_refused("make a bridge", name):
            pool = Pool(subnet)
            # A bridge without an address of its own takes the lowest of its ports': a sandbox that came or went would change the
            # gateway's, and the others would send to the old one until their neighbour entry is doubted, half a minute later.
            rt.link("add", ifname=name, kind="bridge", address=_mac(pool.gateway), br_stp_state=0, br_forward_delay=0)
            index = index_of(rt, name)
            network = cls(asked, rt, route, index, name, pool, subnet6)
            rt.addr("add", index=index, address=str(network.pool.gateway), prefixlen=subnet.prefixlen)
            if subnet6 is not None:
                use_ipv6(name, on=True)
                rt.addr("add", index=index, address=str(subnet6[1]), prefixlen=subnet6.prefixlen, flags=_NODAD)
            rt.link("set", index=index, state="up")
        return network

    @property
    def name(self) -> str:
        return str(self.asked.network)

    @property
    def gateway6(self) -> str | None:
        return str(self.subnet6[1]) if self.subnet6 is not None else None

    def remove(self) -> None:
        """Take the bridge down, because the network came to nothing."""
        with suppress(NetlinkError, OSError):
            self.rt.link("del", index=self.index)

    def refuse_other(self, net: Net) -> None:
        """Raises SetupError where `net` wants this network to be another one than its first user made it."""
        for what in ("internal", "ipv6", "subnet"):
            wanted, has = getattr(net, what), getattr(self.asked, what)
            if wanted != has and not (what == "subnet" and (wanted is None or wanted == str(self.pool.subnet))):
                raise SetupError(
                    "join network", self.name, detail=f"it was made with {what}={has!r}, and {what}={wanted!r} is asked for",
                    hint="ask for the same everywhere, or use another network name",
                )  # fmt: skip

    def attach(self, number: int, net: Net, namespace: int, shape: Shape | None) -> Address:
        """Link the network namespace of sandbox `number` to the bridge.

        Args:
            namespace: fd of it; the caller is in the run's, and is left there.
            shape: called with a socket, an index and ``rx`` or ``tx``, for each end; None where the link is to be as it is.

        Raises:
            SetupError
        """
        ip = self.pool.take_fixed(IPv4(net.ip), self.name) if net.ip else self.pool.take(self.name)
        address = self._address(ip, net)
        index = FIRST_PORT + number
        try:
            self._refuse_taken(address)
            self._cut_former(address)
            with kernel_refused("make a link", f"p{number} on {self.interface}"):
                self.route.do(
                    add_veth(
                        index, f"p{number}", self.index, net.mtu or _MTU,
                        peer=INTERFACE, peer_index=INTERFACE_INDEX, namespace=namespace, mac=address.mac,
                    )
                )  # fmt: skip
            with kernel_refused("configure", INTERFACE), _inside(namespace), Route() as route:
                route.do(*self._configuration(address))
                free_low_ports()
            if shape is not None:
                shape(self.rt, index, "rx")
                with inside(namespace) as rt:
                    shape(rt, INTERFACE_INDEX, "tx")
        except BaseException:
            self.pool.give_back(ip)
            raise
        self.links[number] = Link(index, address)
        return address

    def _refuse_taken(self, address: Address) -> None:
        """A bridge knows one port for each hardware address, and would send to the one that sent last. Raises SetupError."""
        if (owner := _owner(address.mac)) in self.pool.subnet and str(owner) != address.ip:
            holder = "it is the gateway's" if owner == self.pool.gateway else f"it belongs to {owner}"
        elif any(link.address.mac == address.mac for link in self.links.values()):
            holder = "another sandbox has it"
        else:
            return
        raise SetupError(
            "take a hardware address", address.mac, errno.EADDRINUSE,
            f"{holder} on network {self.name!r}: give this one another mac, or none",
        )  # fmt: skip

    def _cut_former(self, address: Address) -> None:
        """Nobody answers for an address beside its new holder: neither processes that are still dying nor a sandbox that had joined theirs."""
        for index in {self.former.pop(taken, 0) for taken in (address.ip, address.mac)} - {0}:
            with suppress(OSError):  # it is gone already
                self.route.do(set_link(index, up=False))

    def _configuration(self, address: Address) -> Iterator[Request]:
        """Of the sandbox's end, in its own namespace."""
        if self.subnet6 is None:
            yield set_link(INTERFACE_INDEX, up=True, link_local=False)
        yield set_link(INTERFACE_INDEX, up=True)
        yield add_address(INTERFACE_INDEX, address.ip, self.pool.subnet.prefixlen)
        if address.ip6 is not None and self.subnet6 is not None:
            yield add_address(INTERFACE_INDEX, address.ip6, self.subnet6.prefixlen)
        if not self.asked.internal:
            yield add_default_route(INTERFACE_INDEX, address.gateway)
            if address.gateway6 is not None:
                yield add_default_route(INTERFACE_INDEX, address.gateway6)

    def _address(self, ip: IPv4, net: Net) -> Address:
        mac = net.mac or _mac(ip)
        ip6 = str(self.subnet6[int(ip) - int(self.pool.subnet.network_address)]) if self.subnet6 is not None else None
        return Address(
            network=self.name,
            ip=str(ip),
            subnet=str(self.pool.subnet),
            gateway=str(self.pool.gateway),
            mac=mac,
            ip6=ip6,
            subnet6=str(self.subnet6) if self.subnet6 is not None else None,
            gateway6=self.gateway6,
        )

    def detach(self, number: int, *, delete: bool = False) -> Link | None:
        """Forget a sandbox whose processes are dead. Its link ends with its namespace, or is cut when its address is wanted again.

        Args:
            delete: end the link now, which takes a while: another one is to have its number.
        """
        link = self.links.pop(number, None)
        if link is None:
            return None
        if delete:
            with suppress(NetlinkError, OSError):  # it is gone already
                self.rt.link("del", index=link.index)
        else:
            self.former[link.address.ip] = self.former[link.address.mac] = link.index
        self.pool.give_back(IPv4(link.address.ip))
        return link


_OURS: Final = "02:49:"
"""Begins the hardware addresses that are made here: locally administered ones (IEEE 802, bit 1 of the first octet)."""


def _mac(ip: IPv4) -> str:
    """An address that nobody else on the network has."""
    return _OURS + ":".join(f"{octet:02x}" for octet in ip.packed)


def _owner(mac: str) -> IPv4:
    """Whose `_mac` it would be; 0.0.0.0: nobody's."""
    return IPv4(bytes.fromhex(mac.removeprefix(_OURS).replace(":", ""))) if mac.startswith(_OURS) else IPv4(0)


@contextmanager
def inside(namespace: int) -> Iterator[IPRoute]:
    """A socket in another network namespace; the caller is back in its own afterwards. Raises OSError of setns(2)."""
    with _inside(namespace):
        rt = IPRoute()
    try:
        yield rt
    finally:
        rt.close()


@contextmanager
def _inside(namespace: int) -> Iterator[None]:
    """The calling thread is in another network namespace for the block. Raises OSError."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(namespace, CLONE_NEWNET)
        try:
            yield
        finally:
            setns(own, CLONE_NEWNET)
    finally:
        os.close(own)


def index_of(rt: IPRoute, name: str) -> int:
    """Of an interface. Raises OSError ENODEV."""
    found: list[Any] = list(rt.link_lookup(ifname=name))
    if not found:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), name)
    return int(found[0])
