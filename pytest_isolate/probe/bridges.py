"""What bridge networks take: a bridge and a veth pair, made in a network namespace and thrown away; and what leads out of it.

The way out isn't opened for a look: that would change settings of the host. What it is made of is tried instead.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Final

from pytest_isolate.kernel.namespaces import CLONE_NEWNET
from pytest_isolate.kernel.syscalls import unshare
from pytest_isolate.network.helper_uplink import INSTALL, PROGRAMS, installed
from pytest_isolate.probe.attempt import attempt
from pytest_isolate.probe.capability import Capability
from pytest_isolate.sandbox.identity import enter_run_namespace

__all__ = ["probe_bridges"]

_TUN: Final = "/dev/net/tun"
_FORWARDING: Final = "/proc/sys/net/ipv4/conf/all/forwarding"


def probe_bridges(*, net: bool) -> Iterator[Capability]:
    """``bridge`` for networks of the run, ``uplink`` for their way out.

    Args:
        net: network namespaces can be made.
    """
    if not net:
        yield from (Capability(name, "missing", "it takes net-namespace", cause="net-namespace") for name in ("bridge", "uplink"))
        return
    answer = attempt(_tried)
    if answer.error is not None:
        why = getattr(answer.error, "detail", "") or answer.error.message
        hint = "modprobe bridge veth (CONFIG_BRIDGE, CONFIG_VETH)"
        yield Capability("bridge", "missing", why, hint, "no-bridge")
        yield Capability("uplink", "missing", "it takes bridge", cause="no-bridge")
        return
    yield Capability("bridge", "works")
    yield _uplink(rootless=answer.result["rootless"], tables=answer.result["tables"])


def _uplink(*, rootless: bool, tables: str) -> Capability:
    """Args: `tables`: why there is no nf_tables; empty if there is."""
    if not rootless and os.access(_FORWARDING, os.W_OK) and (not tables or installed("iptables")):
        return Capability("uplink", "works", "a veth pair")
    if tables:
        return _missing(f"addresses can't be translated: {tables}", "modprobe nf_tables, or apt install iptables")
    program = next((program for program in PROGRAMS if installed(program)), None)
    if program is None:
        return _missing(f"{' and '.join(PROGRAMS)} aren't installed", INSTALL)
    if not os.access(_TUN, os.R_OK | os.W_OK, effective_ids=True):
        return _missing(f"{program} needs {_TUN}, which can't be opened", f"as root: modprobe tun; chmod 0666 {_TUN}")
    return Capability("uplink", "works", program)


def _missing(why: str, remedy: str) -> Capability:
    return Capability("uplink", "missing", f"{why}: bridge networks lead nowhere outside", remedy, "no-uplink")


def _tried() -> dict[str, Any]:
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    from pytest_isolate.network.nft import NftSocket

    rootless = enter_run_namespace().rootless
    unshare(CLONE_NEWNET)
    with IPRoute() as rt:
        try:
            rt.link("add", ifname="br0", kind="bridge")
            rt.link("add", ifname="p0", kind="veth", peer={"ifname": "p1"})
        except NetlinkError as error:
            raise OSError(error.code, str(error)) from None
    tables = ""
    try:
        NftSocket().create("probe", ())
    except OSError as error:
        tables = f"nf_tables: {error.strerror}"
    return {"rootless": rootless, "tables": tables}
