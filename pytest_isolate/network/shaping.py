"""The quality of a link: a rate, a delay, losses, on what leaves one interface.

A plain rate is a token bucket (tc-tbf(8)), or one class of htb where the kernel lacks tbf. As soon as packets are to be delayed or
lost it is netem alone, which has a rate of its own: packets leave in order, each no sooner than its delay after it came and its
length over the rate after the one before. A tbf below netem would count a packet cut by tbf twice in netem's queue (mended in
Linux 6.13), so there is never one below the other. What *comes* is shaped where it leaves: on the other end of the veth pair.

Rates count Ethernet frames: of 10 mbit a TCP stream with 1500 byte packets gets 9.56.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from pytest_isolate.model.errors import MissingCapability
from pytest_isolate.model.net import Bandwidth

if TYPE_CHECKING:
    from pyroute2 import IPRoute

__all__ = ["shape"]

_ROOT: Final = 0xFFFFFFFF
"""TC_H_ROOT."""

_HANDLE: Final = 0x10000
_CLASS: Final = 0x10001
_LARGEST: Final = 2**32 - 1
"""Of a 32-bit field of the kernel's."""

_ETHERNET: Final = 14
_BURST_TIME: Final = 0.010
"""Seconds of the rate that may leave at once: timers are late by a millisecond or some when the machine is busy, and what a bucket
can't hold by then is lost to the rate. It is 1 % of a second's worth."""

_QUEUE_TIME: Final = 0.050
_LEAST_QUEUE: Final = 16
"""Packets. TCP begins with 10 at once."""

_NETEM_PACKETS: Final = 10_000
"""Packets that a link without a rate holds during their delay: 1 Gbit/s of full packets for 120 ms."""


def shape(rt: IPRoute, index: int, rate: int | None, bandwidth: Bandwidth) -> None:
    """Give what leaves an interface the quality that is asked for, in place of what it had. Nothing is done where nothing is asked.

    Args:
        rt: of the interface's network namespace.
        index: of the interface.
        rate: bits per second; None: as fast as it goes.
        bandwidth: its delay, jitter and loss.

    Raises:
        MissingCapability: ``netem`` or ``tbf``: the kernel has no such qdisc.
        NetlinkError: pyroute2's: the interface is gone.
    """
    if rate is None and not bandwidth.emulates:
        return
    frame = int(rt.link("get", index=index)[0].get("mtu")) + _ETHERNET
    if bandwidth.emulates:
        _known("netem", lambda: _netem(rt, index, rate, bandwidth, frame))
        return
    assert rate is not None
    if rate // 8 <= _LARGEST:
        try:
            _known("tbf", lambda: _tbf(rt, index, rate // 8, frame))
        except MissingCapability as missing:
            try:
                _known("htb", lambda: _htb(rt, index, rate // 8, frame))
            except MissingCapability:
                raise missing from None
    else:
        _known("htb", lambda: _htb(rt, index, rate // 8, frame))


def _known(kind: str, add: Callable[[], object]) -> None:
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        add()
    except NetlinkError as error:
        # ENOENT of qdisc_create, net/sched/sch_api.c: "Specified qdisc kind is unknown", after the kernel tried modprobe.
        if error.code != errno.ENOENT:
            raise
        why = f"tc qdisc add {kind}: ENOENT (Specified qdisc kind is unknown): the kernel has no such queueing discipline"
        hint = (
            f"as root: modprobe sch_{kind} (Fedora, RHEL: dnf install kernel-modules-extra; Ubuntu: apt install "
            f"linux-modules-extra-$(uname -r)); or boot a kernel with CONFIG_NET_SCH_{kind.upper()}"
        )
        raise MissingCapability(kind, ["bandwidth"], why, hint) from None


def _tbf(rt: IPRoute, index: int, rate: int, frame: int) -> None:
    """`rate` in bytes per second."""
    burst = _burst(rate, frame)
    limit = burst + max(int(rate * _QUEUE_TIME), _LEAST_QUEUE * frame)
    rt.tc("replace", "tbf", index, _HANDLE, rate=rate, burst=burst, limit=min(limit, _LARGEST))


def _htb(rt: IPRoute, index: int, rate: int, frame: int) -> None:
    """`rate` in bytes per second. Its queue is the interface's own, of txqueuelen packets."""
    burst = _burst(rate, frame)
    rt.tc("replace", "htb", index, _HANDLE, default=1)
    rt.tc("replace-class", "htb", index, _CLASS, parent=_HANDLE, rate=rate, ceil=rate, burst=burst, cburst=burst, quantum=frame)


def _burst(rate: int, frame: int) -> int:
    """Bytes. No packet that is longer than the burst ever leaves."""
    return min(max(int(rate * _BURST_TIME), 2 * frame), _LARGEST)


def _netem(rt: IPRoute, index: int, rate: int | None, bandwidth: Bandwidth, frame: int) -> None:
    from pyroute2.netlink.rtnl.tcmsg.common import percent2u32

    delay, jitter, loss = bandwidth.delay or 0.0, bandwidth.jitter or 0.0, bandwidth.loss or 0.0
    options: dict[str, Any] = {
        "delay": _ticks(delay),
        "jitter": _ticks(jitter),
        "loss": percent2u32(loss * 100),
        "limit": _NETEM_PACKETS,
        "gap": 0,
        "duplicate": 0,
        "attrs": [],
    }
    if rate is not None:
        octets = min(rate // 8, _LARGEST)
        options["limit"] = max(int(octets * (delay + jitter + _QUEUE_TIME) / frame), _LEAST_QUEUE)
        numbers = {"rate": octets, "packet_overhead": 0, "cell_size": 0, "cell_overhead": 0}
        options["attrs"].append(("TCA_NETEM_RATE", numbers))
    # Without `kind`, which pyroute2 (0.9.7) would look up to make options of arguments: those of netem it sends as floats, and
    # rejects a rate.
    rt.tc("replace", index=index, handle=_HANDLE, parent=_ROOT, attrs=[("TCA_KIND", "netem"), ("TCA_OPTIONS", options)])


def _ticks(seconds: float) -> int:
    """Of the packet scheduler: 64 ns each since Linux 2.6.31 (PSCHED_SHIFT 6, include/net/pkt_sched.h), in 32 bits."""
    return min(round(seconds * 1e9 / 64), _LARGEST)
