"""The run's way out as real root: a veth pair to the host, which translates the addresses and forwards.

On the host: one interface, one route per network, one nf_tables table, and settings of forwarding where they are needed
(`forwarding`). The interface goes with the run's network namespace, the table with the hub's socket, the routes with the
interface. In the run's namespace: the other end, with a default route through it.

Whether the host's firewalls let packets pass is found by sending one. The table drops it last, after everyone else had
their say and before it would leave the host, and counts it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING, Final

from pytest_isolate.kernel.cgroup_runs import is_stale
from pytest_isolate.model.errors import MissingCapability
from pytest_isolate.network import nft_rules as nft
from pytest_isolate.network.addresses import Claim, claim, host_networks, unique_local
from pytest_isolate.network.firewall import suspects
from pytest_isolate.network.forwarding import Forwarding, answering_interfaces
from pytest_isolate.network.host_thread import HostThread, namespace_of
from pytest_isolate.network.iptables import Iptables
from pytest_isolate.network.nft import NftSocket
from pytest_isolate.network.router import forward_here, has_ipv6

if TYPE_CHECKING:
    from pyroute2 import IPRoute

__all__ = ["INSIDE", "PREFIX", "VethUplink"]

INSIDE: Final = "uplink0"
"""Name of the interface in the run's network namespace."""

PREFIX: Final = "isolate"
"""What names of interfaces on the host begin with; a hash of the run's name follows, which is whole in the interface's alias."""

_HOST6, _RUN6 = "fe80::1", "fe80::2"
_PROBED: Final = {4: "198.51.100.1", 6: "2001:db8::1"}
"""Addresses for documentation (RFC 5737, RFC 3849)."""

_PROBE_SECONDS: Final = 0.5
_PROBE_PORT: Final = 9
_NO_DAD: Final = 0x02
_UNICAST: Final = 1
_NO_NF_TABLES: Final = (errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.ENOENT)


class VethUplink:
    """See `uplink.Uplink`. The thread that makes it is in the run's network namespace.

    Args:
        host: a socket of the host's network namespace.
        inside: one of the run's.
        outside: a thread in the host's.
        ipv6: open IPv6, too, where both have it.
        tables: ``nft`` or ``iptables``; None: the first that works.

    Raises:
        MissingCapability: forwarding can't be had here, or a firewall drops what is forwarded.
        OSError, SetupError, NetlinkError: any other answer of the kernel.
    """

    kind = "veth"
    interface = INSIDE

    def __init__(
        self, host: IPRoute, inside: IPRoute, outside: HostThread, run: str, tables: str | None = None, *, ipv6: bool = True
    ) -> None:
        self._host, self._inside, self._outside, self._run = host, inside, outside, run
        self._notes: list[str] = []
        self._wants_ipv6 = ipv6
        self._nft: NftSocket | None = None
        self._iptables: Iptables | None = None
        self._name = PREFIX + hashlib.sha256(run.encode()).hexdigest()[:8]
        self._stack = ExitStack()
        with ExitStack() as undo:
            undo.callback(self.close)
            self._build(tables)
            undo.pop_all()

    @property
    def notes(self) -> tuple[str, ...]:
        """What was changed on the host, and what doesn't work."""
        return tuple(self._notes)

    def admit(self, subnet4: IPv4Network, subnet6: IPv6Network | None) -> None:
        """Route a network's answers to it. Raises NetlinkError, SetupError."""
        self._host.route("replace", dst=str(subnet4), gateway=self._run4, oif=self._index)
        self._masquerade(str(subnet4))
        if subnet6 is not None and self._ipv6:
            self._host.route("replace", dst=str(subnet6), gateway=_RUN6, oif=self._index, family=socket.AF_INET6)
            self._masquerade(str(subnet6))

    def close(self) -> None:
        """Take everything off the host. May be called twice."""
        self._stack.close()

    def _build(self, tables: str | None) -> None:
        _sweep_interfaces(self._host, self._run)
        transfer = self._claimed()
        self._host4, self._run4 = (str(transfer.subnet[number]) for number in (1, 2))
        self._run6 = str(unique_local(self._run, "uplink")[2])
        self._connect()
        forwarding = self._outside.call(lambda: Forwarding(self._run))
        # Where it fails, nothing could be set either, or the next run puts it back.
        self._stack.callback(_suppressed, self._outside.call, forwarding.end)
        families = (4, 6) if self._ipv6 else (4,)
        opened = {version: self._forward(forwarding, version) for version in families}
        self._set_tables(opened, tables)
        for version in families:
            if answer := self._lost(version):
                found, hint = answer
                if version == 4:
                    raise MissingCapability("uplink", ["net"], found, hint)
                self._notes.append(f"IPv6 leads nowhere: {found}; {hint}")

    def _claimed(self) -> Claim:
        transfer = claim(host_networks(self._host), run=self._run)
        self._stack.callback(transfer.release)
        return transfer

    def _connect(self) -> None:
        namespace = namespace_of(self._inside)
        try:
            self._host.link("add", ifname=self._name, kind="veth", peer={"ifname": INSIDE, "net_ns_fd": namespace})
        finally:
            os.close(namespace)
        (self._index,) = self._host.link_lookup(ifname=self._name)
        self._stack.callback(_suppressed, self._host.link, "del", index=self._index)
        (peer,) = self._inside.link_lookup(ifname=INSIDE)
        self._ipv6 = self._wants_ipv6 and self._outside.call(has_ipv6) and has_ipv6()
        # The alias comes first: whoever finds the interface knows whose it is.
        self._host.link("set", index=self._index, ifalias=self._run)
        self._host.addr("add", index=self._index, address=self._host4, prefixlen=30)
        self._inside.addr("add", index=peer, address=self._run4, prefixlen=30)
        if self._ipv6:
            self._host.addr("add", index=self._index, address=_HOST6, prefixlen=64, flags=_NO_DAD)
            self._inside.addr("add", index=peer, address=_RUN6, prefixlen=64, flags=_NO_DAD)
            self._inside.addr("add", index=peer, address=self._run6, prefixlen=128, flags=_NO_DAD)
        self._inside.link("set", index=peer, state="up")
        self._host.link("set", index=self._index, state="up")
        self._inside.route("replace", dst="default", gateway=self._host4, oif=peer)
        forward_here(ipv6=self._ipv6)
        if self._ipv6:
            self._inside.route("replace", dst="default", gateway=_HOST6, oif=peer, family=socket.AF_INET6)
            self._host.route("replace", dst=f"{self._run6}/128", gateway=_RUN6, oif=self._index, family=socket.AF_INET6)

    def _forward(self, forwarding: Forwarding, version: int) -> list[str]:
        """The host's interfaces that forward for us and haven't before."""
        # Other runs' uplinks forward for themselves: put back at our end, theirs would be cut.
        answering = [name for name in answering_interfaces(self._host, _family(version)) if not name.startswith(PREFIX)]
        try:
            changed = self._outside.call(lambda: forwarding.need(self._name, answering, ipv6=version == 6))
        except OSError as error:
            why = f"the host doesn't forward IPv{version} packets, and {error.filename} can't be set: {error.strerror}"
            if version == 4:
                raise MissingCapability("uplink", ["net"], why, "sysctl -w net.ipv4.ip_forward=1 on the host") from None
            self._notes.append(why)
            return []
        except LookupError as error:
            self._notes.append(str(error))
            return []
        if changed:
            self._notes.append(f"set to 1 while the run lasts: {', '.join(changed)}")
        return [name for names in changed.values() for name in names]

    def _set_tables(self, opened: dict[int, list[str]], wanted: str | None) -> None:
        refused = ""
        if wanted != "iptables":
            try:
                self._set_nft(opened)
                return
            except OSError as error:
                if error.errno not in _NO_NF_TABLES or wanted == "nft":
                    raise
                refused = f"the kernel has no nf_tables ({error.strerror})"
        try:
            self._set_iptables(opened)
        except LookupError as error:
            raise MissingCapability(
                "uplink",
                ["net"],
                f"addresses can't be translated: {refused}, and {error}",
                "modprobe nf_tables, or apt install iptables",
            ) from None

    def _set_nft(self, opened: dict[int, list[str]]) -> None:
        link = self._name
        shut = [
            (*nft.iif(name), *nft.connection_is_new(), *nft.not_translated(), *nft.DROP)
            for name in sorted(set().union(*opened.values()))
        ]
        chains = (
            nft.Chain("forward", "filter", nft.FORWARD, 0, (
                # Nobody reaches into the run's networks from outside, other runs included.
                (*nft.oif(link), *nft.iif(link, other=True), *nft.connection_is_new(), *nft.DROP),
                (*nft.iif(link), *nft.ACCEPT),
                # Interfaces that forward for our sake forward nothing else.
                *shut,
            )),
            nft.Chain("probe", "filter", nft.POSTROUTING, -400, tuple(
                (*nft.source(source), *nft.counter(), *nft.DROP) for source in (self._run4, self._run6)
            )),
            nft.Chain("nat", "nat", nft.POSTROUTING, 100, ((*nft.iif(link), *nft.oif(link, other=True), *nft.masquerade()),)),
        )  # fmt: skip
        self._nft = made = self._outside.call(NftSocket)
        self._stack.callback(made.close)
        made.sweep(self._run)
        if not made.create(self._run, chains):
            self._stack.callback(_suppressed, made.delete, self._run)

    def _set_iptables(self, opened: dict[int, list[str]]) -> None:
        made = self._outside.call(lambda: Iptables(self._run, self._name))
        self._outside.call(made.sweep)
        self._stack.callback(self._outside.call, made.close)
        for version, names in opened.items():
            self._on_host(made.open, names, ipv6=version == 6)
            self._on_host(made.count, self._run6 if version == 6 else self._run4)
        self._iptables = made

    def _on_host(self, function: Callable[..., None], *args: object, **named: object) -> None:
        self._outside.call(lambda: function(*args, **named))

    def _masquerade(self, subnet: str) -> None:
        """nf_tables tells by the interface that a packet came in through, iptables' nat table can't."""
        if (made := self._iptables) is not None:
            self._on_host(made.masquerade, subnet)

    def _lost(self, version: int) -> tuple[str, str] | None:
        """Why a packet on its way out was dropped, and the remedy; None if it came through or the host leads nowhere."""
        target = _somewhere(self._host, version, self._index)
        if target is None:
            if version == 4:
                self._notes.append("the host has no IPv4 route to anywhere else")
            return None
        deadline = time.monotonic() + _PROBE_SECONDS
        with socket.socket(_family(version), socket.SOCK_DGRAM) as sender:
            sender.bind((self._run6 if version == 6 else self._run4, 0))
            while time.monotonic() < deadline:
                with suppress(OSError):
                    sender.sendto(b"", (target, _PROBE_PORT))
                for _ in range(5):
                    if self._counted(version):
                        return None
                    time.sleep(0.004)
        return self._outside.call(lambda: suspects(self._nft, self._run, PREFIX))

    def _counted(self, version: int) -> int:
        if self._iptables is not None:
            made = self._iptables
            return self._outside.call(lambda: made.counted(version))
        assert self._nft is not None
        return self._nft.packets(self._run, "probe")[version == 6]


def _family(version: int) -> int:
    return socket.AF_INET6 if version == 6 else socket.AF_INET


def _somewhere(host: IPRoute, version: int, uplink: int) -> str | None:
    """An address that the host would send packets on to, by another interface than the one with the index `uplink`."""
    family = _family(version)
    candidates = [_PROBED[version]]
    for route in host.get_routes(family=family):
        if route["type"] == _UNICAST and (network := route.get_attr("RTA_DST")) and not network.startswith("fe80:"):
            subnet = (IPv6Network if version == 6 else IPv4Network)((network, route["dst_len"]))
            candidates.append(str(subnet[min(1, subnet.num_addresses - 1)]))
    for address in candidates:
        with suppress(Exception):  # NetlinkError: ENETUNREACH
            (answer,) = host.route("get", dst=address, family=family)
            if answer["type"] == _UNICAST and answer.get_attr("RTA_OIF") != uplink:
                return address
    return None


def _suppressed(function: Callable[..., object], *args: object, **named: object) -> None:
    """For the removal of what may be gone already: with the run's namespace, by a firewall's reload."""
    with suppress(Exception):  # OSError, NetlinkError
        function(*args, **named)


def _sweep_interfaces(host: IPRoute, run: str) -> None:
    """Remove what ended runs left, and a killed hub of this one: what keeps their namespaces alive for a moment, or for longer."""
    for link in host.get_links():
        alias = link.get_attr("IFLA_IFALIAS") or ""
        if link.get_attr("IFLA_IFNAME").startswith(PREFIX) and (alias == run or is_stale(alias)):
            _suppressed(host.link, "del", index=link["index"])  # another run may be faster
