"""How the run's network namespace reaches the outside world: by a veth pair, by pasta, or by slirp4netns.

The hub opens it when the first network that isn't internal is made. Real root takes the veth pair, unless the host's
firewall or a read-only /proc/sys is in the way, and then pasta, as everyone else does.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING, Protocol

from pytest_isolate.model.errors import MissingCapability, SetupError
from pytest_isolate.model.keys import UPLINKS
from pytest_isolate.network.helper_uplink import INSTALL, PROGRAMS, HelperUplink, installed
from pytest_isolate.network.host_thread import HostThread

if TYPE_CHECKING:
    from pyroute2 import IPRoute

__all__ = ["Uplink", "open_uplink"]


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
    host: IPRoute,
    inside: IPRoute,
    *,
    run: str,
    rootless: bool,
    wanted: str = "auto",
    outside: HostThread,
    ipv6: bool = True,
) -> Uplink:
    """Open the run's way out. The calling thread is in the run's network namespace.

    Args:
        host: a socket of the host's network namespace.
        inside: a socket of the run's.
        run: the run's name.
        rootless: the caller has capabilities in the run's user namespace only.
        wanted: one of `keys.UPLINKS`.
        ipv6: open IPv6, too, where the host has it.
        outside: a thread in the host's namespace, which can't be entered any more when rootless.

    Raises:
        MissingCapability: there is no way out on this machine, and what would make one.
        SetupError: any other answer of the kernel.
    """
    from pyroute2.netlink.exceptions import NetlinkError

    if wanted not in UPLINKS:
        raise ValueError(f"{wanted!r} is none of {', '.join(UPLINKS)}")
    try:
        return _opened(host, inside, outside, run, wanted, rootless=rootless, ipv6=ipv6)
    except NetlinkError as error:
        raise SetupError("open the uplink", "", error.code) from None
    except OSError as error:
        raise SetupError.from_os_error("open the uplink", error) from None


def _opened(host: IPRoute, inside: IPRoute, outside: HostThread, run: str, wanted: str, *, rootless: bool, ipv6: bool) -> Uplink:
    if wanted in ("auto", "veth") and not rootless:
        from pytest_isolate.network.veth_uplink import VethUplink

        try:
            return VethUplink(host, inside, outside, run, ipv6=ipv6)
        except MissingCapability as error:
            if wanted == "veth":
                raise
            return _instead(error, host, inside, outside, run)
    if wanted == "veth":
        raise MissingCapability("uplink", ["net"], "a veth pair to the host takes root", "")
    return _helper(host, inside, outside, run, PROGRAMS if wanted == "auto" else (wanted,))


def _instead(error: MissingCapability, host: IPRoute, inside: IPRoute, outside: HostThread, run: str) -> Uplink:
    """The way that leaves the host alone, where what `error` says is in the way of the other one."""
    programs = [program for program in PROGRAMS if installed(program)]
    if not programs:
        raise MissingCapability(error.capability, error.keys, error.why, f"{error.hint}; or {INSTALL}") from None
    try:
        return _helper(host, inside, outside, run, programs, (f"not by a veth pair: {error.why}; remedy: {error.hint}",))
    except MissingCapability as second:
        raise MissingCapability(
            error.capability, error.keys, f"{error.why}; and {second.why}", f"{error.hint}; or {second.hint}"
        ) from None


def _helper(
    host: IPRoute, inside: IPRoute, outside: HostThread, run: str, programs: Sequence[str], notes: tuple[str, ...] = ()
) -> Uplink:
    errors = []
    for program in programs:
        try:
            return HelperUplink(host, inside, outside, run, program, notes)
        except MissingCapability as error:
            errors.append(error)
    why = "; ".join(dict.fromkeys(error.why for error in errors))
    hint = "; ".join(dict.fromkeys(error.hint for error in errors if error.hint))
    raise MissingCapability("uplink", ["net"], why, hint)
