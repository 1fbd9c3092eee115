"""What a sandbox consumed. A figure the machine can't give is None, and then absent from reports: never zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

__all__ = ["Contact", "Contacts", "ProcessInfo", "Usage"]


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """A process seen inside a sandbox; `pid` is the sandbox's own numbering."""

    pid: int
    name: str
    command: str

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid}): {self.command}" if self.command else f"{self.name} (pid {self.pid})"


@dataclass(frozen=True, slots=True)
class Usage:
    """Figures of one sandbox, in seconds and bytes.

    Attributes:
        cpu_seconds: user plus system time of everything that ran in it.
        cpu_instructions: instructions that its processes executed in user mode, where they were counted.
        cpu_throttled_seconds: time that runnable threads were held back by the CPU cap.
        memory_peak_bytes: highest charge of the memory cgroup (heap touched after the fork, page cache, tmpfs).
        memory_inherited_bytes: of it, pages of pytest's own memory that the test process copied by writing to them (an estimate; only
            for tests with a budget for memory).
        pids_peak: highest number of simultaneous tasks.
        io_read_bytes, io_write_bytes: block I/O charged to the sandbox.
        disk_written_bytes: size of the upper layer when the test ended.
        wall_seconds: from joining the sandbox to the end of the process's teardown.
        setup_seconds: what the sandbox itself cost the run: waiting for it, fork, join and release.
        oom_kills: processes killed by the memory cap.
        leaked_processes: processes alive inside after the test process ended.
        cpu_pressure_seconds, memory_pressure_seconds, io_pressure_seconds: time in which at least one task inside waited
            for it (PSI, "some"; cgroup v2).
        net_rx_bytes, net_tx_bytes, net_rx_packets, net_tx_packets: what went through the sandbox's interface on a bridge network.
        net_dropped_packets: what that interface dropped.
    """

    cpu_seconds: float | None = None
    cpu_user_seconds: float | None = None
    cpu_system_seconds: float | None = None
    cpu_throttled_seconds: float | None = None
    memory_peak_bytes: int | None = None
    memory_inherited_bytes: int | None = None
    pids_peak: int | None = None
    io_read_bytes: int | None = None
    io_write_bytes: int | None = None
    disk_written_bytes: int | None = None
    wall_seconds: float | None = None
    setup_seconds: float | None = None
    oom_kills: int | None = None
    leaked_processes: int | None = None
    cpu_pressure_seconds: float | None = None
    memory_pressure_seconds: float | None = None
    io_pressure_seconds: float | None = None
    net_rx_bytes: int | None = None
    net_tx_bytes: int | None = None
    net_rx_packets: int | None = None
    net_tx_packets: int | None = None
    net_dropped_packets: int | None = None
    cpu_instructions: int | None = None

    @property
    def memory_own_bytes(self) -> int | None:
        """The peak without the pages of pytest's own that were copied; None where one of the two isn't known."""
        if self.memory_peak_bytes is None or self.memory_inherited_bytes is None:
            return None
        return max(0, self.memory_peak_bytes - self.memory_inherited_bytes)

    def properties(self) -> list[tuple[str, float | int]]:
        """`user_properties` pairs, ``isolate.`` before each name; unknown figures left out."""
        return [(_PROPERTIES[name], value) for name, value in self.to_json().items()]

    def to_json(self) -> dict[str, Any]:
        return {name: value for name in _PROPERTIES if (value := getattr(self, name)) is not None}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Usage:
        return cls(**{name: value for name, value in data.items() if name in _PROPERTIES})


_PROPERTIES: Final = {field.name: f"isolate.{field.name}" for field in fields(Usage)}
"""Made once: a run keeps these strings for each of its tests, and every fork copies what it keeps."""


Contact = tuple[str, str, int]
"""Protocol, ``tcp`` or ``udp``, address and port of a remote end."""


@dataclass(frozen=True, slots=True)
class Contacts:
    """With whom one sandbox wanted contact: protocol, address and port, each once, in the order in which they were first met.

    Attributes:
        reached: a connection was accepted, or a datagram answered.
        refused: a reset, or an ICMP message: nobody there, or forbidden.
        unanswered: neither; for datagrams that is no failure.
        more: how many were left out of the three above, because a list holds a hundred.
        incomplete: the kernel had to drop packets, of this sandbox or others, so that some contacts may be missing.
    """

    reached: tuple[Contact, ...] = ()
    refused: tuple[Contact, ...] = ()
    unanswered: tuple[Contact, ...] = ()
    more: int = 0
    incomplete: bool = False

    def __add__(self, other: Contacts) -> Contacts:
        """Of two addresses of one sandbox, or of one after the other."""
        return Contacts(
            tuple(dict.fromkeys(self.reached + other.reached)),
            tuple(dict.fromkeys(self.refused + other.refused)),
            tuple(dict.fromkeys(self.unanswered + other.unanswered)),
            self.more + other.more,
            self.incomplete or other.incomplete,
        )

    def __bool__(self) -> bool:
        return bool(self.reached or self.refused or self.unanswered)

    def to_json(self) -> dict[str, Any]:
        kinds = {"reached": self.reached, "refused": self.refused, "unanswered": self.unanswered}
        lists = {name: [list(contact) for contact in contacts] for name, contacts in kinds.items()}
        return {**lists, "more": self.more, "incomplete": self.incomplete}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Contacts:
        def contacts(name: str) -> tuple[Contact, ...]:
            return tuple((protocol, address, port) for protocol, address, port in data[name])

        return cls(contacts("reached"), contacts("refused"), contacts("unanswered"), data["more"], data["incomplete"])
