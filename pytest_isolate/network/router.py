"""The run's network namespace as a router: settings of the namespace that the calling thread is in."""

from __future__ import annotations

__all__ = ["forward_here", "has_ipv6"]


def forward_here(*, ipv6: bool) -> None:
    """Forward packets between the interfaces. Raises OSError."""
    _write("/proc/sys/net/ipv4/ip_forward", "1")
    if ipv6:
        _write("/proc/sys/net/ipv6/conf/all/forwarding", "1")


def has_ipv6() -> bool:
    """Whether new interfaces get IPv6."""
    try:
        with open("/proc/sys/net/ipv6/conf/default/disable_ipv6", encoding="ascii") as file:
            return file.read().strip() == "0"
    except OSError:
        return False


def _write(path: str, value: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(value)
