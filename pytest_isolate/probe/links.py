"""What the quality of a link is made of: the kernel's queueing disciplines, tried on the loopback of a network namespace."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

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


def probe_links(*, net: bool) -> Iterator[Capability]:
    """``tbf`` for rates, ``netem`` for delays and losses.

    Args:
        net: network namespaces can be made.
    """
    if not net:
        yield from (Capability(name, "missing", "it takes net-namespace", cause="net-namespace") for name in ("tbf", "netem"))
        return
    rates = _error(1_000_000, Bandwidth())
    yield Capability("tbf", "works") if rates is None else Capability("tbf", "missing", rates.why, rates.hint, "no-qdisc")
    delays = _error(None, Bandwidth(delay=0.001))
    if delays is None:
        yield Capability("netem", "works")
    else:
        why = f"{delays.why}: rates work, delay, jitter and loss don't"
        yield Capability("netem", "weaker", why, delays.hint, "no-qdisc")


def _error(rate: int | None, bandwidth: Bandwidth) -> MissingCapability | None:
    answer = attempt(lambda: _shape(rate, bandwidth))
    if answer.error is None or isinstance(answer.error, MissingCapability):
        return answer.error
    return MissingCapability("netlink", ["bandwidth"], answer.error.message, answer.error.hint)


def _shape(rate: int | None, bandwidth: Bandwidth) -> None:
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    enter_run_namespace()
    unshare(CLONE_NEWNET)
    with IPRoute() as rt:
        try:
            shape(rt, _LOOPBACK, rate, bandwidth)
        except NetlinkError as error:
            raise OSError(error.code, str(error)) from None
