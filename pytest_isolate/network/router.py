"""Settings of the network namespace that the calling thread is in: /proc/sys/net shows each thread its own (proc(5))."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from pytest_isolate.model.errors import SetupError

__all__ = ["forward_here", "free_low_ports", "has_ipv6", "keep_off_packet_filters", "use_ipv6"]

_SYSCTL: Final = "/proc/sys/net/"


def forward_here(*, ipv6: bool) -> None:
    """Forward packets between the interfaces. Raises SetupError."""
    for name in ("ipv4/ip_forward", *(["ipv6/conf/all/forwarding"] if ipv6 else [])):
        try:
            _write(name, "1")
        except OSError as error:
            hint = "in a container, /proc/sys has to be writable (docker run --privileged); internal networks work without it"
            raise SetupError.from_os_error("write", error, _SYSCTL + name, hint) from None


def has_ipv6() -> bool:
    """Whether new interfaces get IPv6."""
    try:
        with open(f"{_SYSCTL}ipv6/conf/default/disable_ipv6", encoding="ascii") as file:
            return file.read().strip() == "0"
    except OSError:
        return False


def use_ipv6(interface: str, *, on: bool) -> None:
    """Have an interface with IPv6 or without; ``default``: those that are made from now on.

    Ports of a bridge have no use for it, and would only announce themselves. What the kernel refuses stays as it was.
    """
    with suppress(OSError):
        _write(f"ipv6/conf/{interface}/disable_ipv6", "0" if on else "1")


def keep_off_packet_filters() -> None:
    """Have bridges pass frames without asking iptables' hooks about them (br_netfilter, where it is loaded)."""
    for family in ("ip", "ip6", "arp"):
        with suppress(OSError):
            _write(f"bridge/bridge-nf-call-{family}tables", "0")


def free_low_ports() -> None:
    """Let any user bind ports below 1024, as in Docker's namespaces: they are nobody else's."""
    with suppress(OSError):
        _write("ipv4/ip_unprivileged_port_start", "0")


def _write(name: str, value: str) -> None:
    with open(_SYSCTL + name, "w", encoding="ascii") as file:
        file.write(value)
