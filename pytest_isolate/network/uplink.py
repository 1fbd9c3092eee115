"""How the run's network namespace reaches the outside world: by a veth pair, by pasta, or by slirp4netns.

The hub opens it when the first network that isn't internal is made. Real root takes the veth pair, unless the host's
firewall or a read-only /proc/sys is in the way, and then pasta, as everyone else does.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING, Final, Protocol

from pytest_isolate.network.host_thread import HostThread, namespace_of

if TYPE_CHECKING:
    from pyroute2 import IPRoute

__all__ = ["KINDS", "Uplink", "open_uplink"]

KINDS: Final = ("auto", "veth", "pasta", "slirp4netns")


class Uplink(Protocol):
    """An open way out."""

    @property
    def kind(self) -> str:
        """``veth``, ``pasta`` or ``slirp4netns``."""
        ...

    @property
    def interface(self) -> str:
        """Its name in the run's network namespace; the default route leads through it."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What was changed on the host for it, and what doesn't work; for the user to read."""
        ...

    def admit(self, subnet4: IPv4Network, subnet6: IPv6Network | None) -> None:
        """Let a network out: routes for the answers, and translation of its addresses."""
        ...

    def close(self) -> None:
        """Take back everything, on the host and in the run's namespace. May be called twice."""
        ...


def open_uplink(
    host: IPRoute, inside: IPRoute, *, run: str, rootless: bool, wanted: str = "auto", outside: HostThread | None = None
) -> Uplink:
    """Open the run's way out. The calling thread is in the run's network namespace.

    Args:
        host: a socket of the host's network namespace.
        inside: a socket of the run's.
        run: the run's name.
        rootless: the caller has capabilities in the run's user namespace only.
        wanted: one of `KINDS`.
        outside: a thread in the host's namespace; needed when rootless, as it can't be entered any more.

    Raises:
        MissingCapability: there is no way out on this machine, and what would make one.
    """
    if wanted not in KINDS:
        raise ValueError(f"{wanted!r} is none of {', '.join(KINDS)}")
    if outside is None:
        namespace = namespace_of(host)
        outside = HostThread(namespace)
    from pytest_isolate.network.veth_uplink import VethUplink

    return VethUplink(host, inside, outside, run)
