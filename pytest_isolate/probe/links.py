"""What the quality of a link is made of: the kernel's queueing disciplines, tried on the loopback of a network namespace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from pytest_isolate.kernel.namespaces import CLONE_NEWNET
from pytest_isolate.kernel.syscalls import unshare
from pytest_isolate.model.errors import MissingCapability
from pytest_isolate.model.net import Bandwidth
from pytest_isolate.network.shaping import shape
from pytest_isolate.probe.attempt import attempt
from pytest_isolate.probe.capability import Capability
from pytest_isolate.sandbox.identity import enter_run_namespace

__all__ = ["probe_links"]

_LOOPBACK: Final = 1
"""Its index in every network namespace."""

_TRIES: Final[Mapping[str, tuple[int | None, Bandwidth]]] = MappingProxyType(
    {"tbf": (1_000_000, Bandwidth()), "netem": (None, Bandwidth(delay=0.001))}
)


def probe_links(*, net: bool) -> Iterator[Capability]:
    """``tbf`` for rates, ``netem`` for delays and losses.

    Args:
        net: network namespaces can be made.
    """
    if not net:
        yield from (Capability(name, "missing", "it takes net-namespace", cause="net-namespace") for name in _TRIES)
        return
    answer = attempt(_refusals)
    if answer.error is not None:
        yield from (Capability(name, "missing", answer.error.message, answer.error.hint, "netlink") for name in _TRIES)
        return
    for name in _TRIES:
        if name not in answer.result:
            yield Capability(name, "works")
            continue
        why, hint = answer.result[name]
        if name == "netem":
            yield Capability(name, "weaker", f"{why}: rates work, delay, jitter and loss don't", hint, "no-qdisc")
        else:
            yield Capability(name, "missing", why, hint, "no-qdisc")


def _refusals() -> dict[str, Any]:
    """Why, and the remedy, of what the kernel lacks."""
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    enter_run_namespace()
    unshare(CLONE_NEWNET)
    found = {}
    with IPRoute() as rt:
        for name, (rate, bandwidth) in _TRIES.items():
            try:
                shape(rt, _LOOPBACK, rate, bandwidth)
            except MissingCapability as error:
                found[name] = [error.why, error.hint]
            except NetlinkError as error:
                raise OSError(error.code, str(error)) from None
    return found
