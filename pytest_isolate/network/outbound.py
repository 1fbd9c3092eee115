"""Which networks have a way out, and when it is opened: at the first network that isn't internal. Only the hub imports this.

The host is touched as little as the networks ask: IPv6 is opened with the first one that has it. Then the uplink is made
anew, and connections that went through it break, so ask for `ipv6` in the first network if that matters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyroute2 import IPRoute

from pytest_isolate.model.errors import MissingCapability
from pytest_isolate.network.bridge import Network
from pytest_isolate.network.host_thread import HostThread
from pytest_isolate.network.router import forward_here, use_ipv6
from pytest_isolate.network.routing import lead_out
from pytest_isolate.network.uplink import open_uplink

if TYPE_CHECKING:
    from pytest_isolate.network.uplink import Uplink

__all__ = ["Outbound"]


class Outbound:
    """The run's way out.

    Args:
        host: a socket of the host's network namespace.
        inside: one of the run's, where the caller is.
        outside: a thread in the host's.
        run: the run's name.
        rootless: the caller has capabilities in the run's user namespace only.
        wanted: how: one of `keys.UPLINKS`.
    """

    def __init__(self, host: IPRoute, inside: IPRoute, outside: HostThread, run: str, *, rootless: bool, wanted: str) -> None:
        self._host, self._inside, self._outside = host, inside, outside
        self._run, self._rootless, self._wanted = run, rootless, wanted
        self._uplink: Uplink | None = None
        self._ipv6 = False
        self._networks: list[tuple[int, Network]] = []
        self._missing: dict[bool, MissingCapability] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """What was changed on the host, and what doesn't work."""
        return self._uplink.notes if self._uplink is not None else ()

    def open(self, *, ipv6: bool) -> None:
        """Have a way out, for IPv6 as well. Raises MissingCapability, the same as the last time once there was none, or SetupError."""
        if self._uplink is not None and (self._ipv6 or not ipv6):
            return
        if ipv6 in self._missing:  # each test of the run asks, and a try takes up to seconds
            raise self._missing[ipv6]
        former = self._uplink is not None
        self.close()
        try:
            self._open(ipv6=ipv6)
        except BaseException as error:
            if former:  # the networks that had one keep one
                self._open(ipv6=False)
            if isinstance(error, MissingCapability):
                self._missing[ipv6] = error.with_traceback(None)
            raise

    def _open(self, *, ipv6: bool) -> None:
        use_ipv6("default", on=True)
        try:
            self._uplink = open_uplink(
                self._host,
                self._inside,
                run=self._run,
                rootless=self._rootless,
                wanted=self._wanted,
                outside=self._outside,
                ipv6=ipv6,
            )
        finally:
            use_ipv6("default", on=False)
        self._ipv6 = ipv6
        for number, network in self._networks:
            self._admit(self._uplink, number, network)

    def let_out(self, number: int, network: Network) -> None:
        """Lead a network there. Raises SetupError."""
        assert self._uplink is not None
        self._admit(self._uplink, number, network)
        self._networks.append((number, network))

    def _admit(self, uplink: Uplink, number: int, network: Network) -> None:
        forward_here(ipv6=network.subnet6 is not None)
        uplink.admit(network.pool.subnet, network.subnet6)
        lead_out(self._inside, number, network)

    def close(self) -> None:
        """Give back what the kernel doesn't take back by itself."""
        if self._uplink is not None:
            self._uplink.close()
            self._uplink = None
