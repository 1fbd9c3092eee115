"""Which network of the run may reach what: policy rules in the run's network namespace. Only the hub imports this.

What comes from a bridge is routed by a table of that network alone, which knows the way out and refuses the other networks
of the run, as Docker isolates its bridges from each other. It takes no packet filter, so it works on every kernel.
"""

from __future__ import annotations

from typing import Final

from pyroute2 import IPRoute

from pytest_isolate.network.bridge import Network, kernel_refused

__all__ = ["lead_out", "separate"]

_MAIN: Final = 254
_TABLE: Final = 1000
_PRIORITY: Final = 1000
_FAMILIES: Final = (2, 10)


def separate(rt: IPRoute, number: int, network: Network, others: list[tuple[int, Network]]) -> None:
    """Route what comes from `network`, the `number`-th, by a table of its own, closed to the other networks and they to it. Raises SetupError."""
    with kernel_refused("route network", network.name):
        for family in _families(network):
            rt.rule("add", family=family, iifname=network.interface, table=_TABLE + number, priority=_PRIORITY)
            rt.route("add", family=family, dst="default", type="unreachable", table=_TABLE + number, priority=4096)
        for other_number, other in others:
            _close(rt, number, other)
            _close(rt, other_number, network)


def _close(rt: IPRoute, number: int, to: Network) -> None:
    rt.route("add", dst=str(to.pool.subnet), type="unreachable", table=_TABLE + number)
    if to.subnet6 is not None:
        rt.route("add", family=10, dst=str(to.subnet6), type="unreachable", table=_TABLE + number)


def lead_out(rt: IPRoute, number: int, network: Network) -> None:
    """Give `network` the default route that the run's namespace has through its uplink. Raises SetupError."""
    with kernel_refused("route network", network.name):
        for family in _families(network):
            for route in rt.get_default_routes(family=family):
                if route.get_attr("RTA_TABLE") == _MAIN:
                    gateway, oif = route.get_attr("RTA_GATEWAY"), route.get_attr("RTA_OIF")
                    kwargs = {"gateway": gateway} if gateway else {}
                    rt.route("add", family=family, dst="default", oif=oif, table=_TABLE + number, **kwargs)


def _families(network: Network) -> tuple[int, ...]:
    return _FAMILIES if network.subnet6 is not None else _FAMILIES[:1]
