"""Cutting two sandboxes of one network apart, and mending it: what a cable that was pulled does, not what a firewall does.

Neither a rule nor a route, which would answer with errors at once: a permanent neighbour entry (ip-neighbour(8)) gives the
other's address a hardware address that nobody has. Frames leave, the bridge floods them to everybody, nobody takes them. What was
connected before is cut as well, since every packet looks its neighbour up. Both sides are cut, each in its own namespace.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pyroute2 import IPRoute

__all__ = ["NOBODY", "cut", "mend"]

NOBODY: Final = "02:de:ad:00:00:00"
"""A locally administered unicast address, IEEE 802 (second bit of the first octet). What is made for sandboxes must differ."""

_NUD_PERMANENT: Final = 0x80
_FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}


def cut(rt: IPRoute, index: int, addresses: Iterable[str]) -> None:
    """From now on lose what an interface sends to `addresses`, of its own subnets. What is cut already stays cut.

    Args:
        rt: of the network namespace of the sandbox that sends.
        index: of its interface.
        addresses: IPv4 and IPv6.

    Raises:
        ValueError: an address is none.
        NetlinkError: pyroute2's: the interface is gone or down.
    """
    for address in addresses:
        rt.neigh("replace", dst=address, lladdr=NOBODY, ifindex=index, state=_NUD_PERMANENT, family=_family(address))


def mend(rt: IPRoute, index: int, addresses: Iterable[str]) -> None:
    """Undo `cut`: the next packet asks for the neighbour's address anew. What isn't cut stays as it is.

    Raises:
        ValueError: an address is none.
        NetlinkError: pyroute2's: the interface is gone.
    """
    from pyroute2.netlink.exceptions import NetlinkError

    for address in addresses:
        try:
            rt.neigh("del", dst=address, ifindex=index, family=_family(address))
        except NetlinkError as error:
            if error.code != errno.ENOENT:
                raise


def _family(address: str) -> int:
    return _FAMILIES[ip_address(address).version]
