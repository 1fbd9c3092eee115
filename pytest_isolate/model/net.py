"""What is asked of the network of a sandbox: mode, published ports, the quality of its link. Pure data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

__all__ = ["ANY_PORT", "DEFAULT_NETWORK", "Bandwidth", "Net", "Publish", "Transport", "bracketed"]

Mode = Literal["none", "host", "bridge", "container"]
Transport = Literal["tcp", "udp"]

DEFAULT_NETWORK: Final = "bridge"
"""The network that ``net="bridge"`` means, as Docker's default one is called."""

ANY_PORT: Final = 0
"""A host port of the kernel's choice."""


def bracketed(host: str) -> str:
    """An address as it is written before a colon and a port."""
    return f"[{host}]" if ":" in host else host


@dataclass(frozen=True, slots=True)
class Net:
    """The network of one sandbox.

    Attributes:
        mode: one of Docker's four.
        container: the sandbox whose network is joined, by the name that it has in the run; with mode ``container`` only.
        network: the network's name in the run; this and what follows with mode ``bridge`` only.
        internal: the network leads nowhere outside (Docker's ``--internal``).
        subnet: IPv4 subnet of the network, in CIDR form; None: a free one.
        ip: the sandbox's address; None: the next free one.
        aliases: more names under which it is found on the network.
        mac: hardware address, six octets in colon form; None: one made from the address.
        mtu: of the interface, in bytes; None: 1500.
        ipv6: the network has IPv6 as well, in a unique local subnet of its own.
    """

    mode: Mode = "none"
    container: str | None = None
    network: str | None = None
    internal: bool = False
    subnet: str | None = None
    ip: str | None = None
    aliases: tuple[str, ...] = ()
    mac: str | None = None
    mtu: int | None = None
    ipv6: bool = False

    @property
    def own(self) -> bool:
        """Whether the sandbox has a network namespace of its own, which nobody else has made."""
        return self.mode in ("none", "bridge")

    @property
    def blocks(self) -> bool:
        """Whether it leads nowhere but to the sandbox's own loopback."""
        return self.mode == "none"

    def __str__(self) -> str:
        """As typed on a command line."""
        if self.mode == "container":
            return f"container:{self.container}"
        values = [
            ("network", self.network if self.network != DEFAULT_NETWORK else None),
            ("internal", "true" if self.internal else None),
            ("subnet", self.subnet),
            ("ip", self.ip),
            *(("alias", alias) for alias in self.aliases),
            ("mac", self.mac),
            ("mtu", self.mtu),
            ("ipv6", "true" if self.ipv6 else None),
        ]
        return ",".join([self.mode, *(f"{name}={value}" for name, value in values if value is not None)])

    def to_json(self) -> dict[str, Any]:
        """Only what differs from the default."""
        default = asdict(Net())
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if value != default[name]
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Net:
        values = dict(data)
        if "aliases" in values:
            values["aliases"] = tuple(values["aliases"])
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Publish:
    """A port of the sandbox that the host can reach.

    Attributes:
        port: inside.
        host_port: outside; `ANY_PORT` for one of the kernel's choice.
        host_ip: the host's address that listens.
        protocol: ``tcp`` or ``udp``.
    """

    port: int
    host_port: int = ANY_PORT
    host_ip: str = "127.0.0.1"
    protocol: Transport = "tcp"

    def __str__(self) -> str:
        """In Docker's form."""
        return f"{bracketed(self.host_ip)}:{self.host_port or ''}:{self.port}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """The quality of a sandbox's link. Rates in bits per second, times in seconds; None: as the machine gives it.

    Attributes:
        rx: rate of what it receives.
        tx: rate of what it sends.
        delay: added to each packet, in each direction.
        jitter: by how much the delay varies.
        loss: share of packets lost in each direction, 0 to 1.
    """

    rx: int | None = None
    tx: int | None = None
    delay: float | None = None
    jitter: float | None = None
    loss: float | None = None

    @property
    def emulates(self) -> bool:
        """Whether it takes netem, and not a plain rate limit."""
        return any(value is not None for value in (self.delay, self.jitter, self.loss))

    def __str__(self) -> str:
        return ",".join(f"{name}={value}" for name, value in asdict(self).items() if value is not None)
