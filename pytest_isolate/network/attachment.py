"""Where a sandbox is on its network, as the hub tells it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

__all__ = ["INTERFACE", "Address"]

INTERFACE: Final = "eth0"
"""The sandbox's interface on a bridge, as in Docker."""


@dataclass(frozen=True, slots=True)
class Address:
    """A place on a bridge network.

    Attributes:
        network: its name in the run.
        ip: the sandbox's address.
        subnet: of the network, in CIDR form.
        gateway: where the way out begins, and names are resolved.
        mac: hardware address.
        ip6, subnet6, gateway6: the same in IPv6, None where the network has none.
    """

    network: str
    ip: str
    subnet: str
    gateway: str
    mac: str
    ip6: str | None = None
    subnet6: str | None = None
    gateway6: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Address:
        return cls(**data)
