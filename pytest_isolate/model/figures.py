"""The figures of `Usage` that people name: in budgets, in comparisons with a baseline, as columns of a report.

One table says for each how it is spelt, what it is read from, and how values of it are read and written, so that a
budget, a baseline and a plot can't mean different things by ``memory``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from pytest_isolate.model.units import format_duration, format_size, parse_duration, parse_size, shown, whole_number
from pytest_isolate.model.usage import Usage

__all__ = ["FIGURES", "Figure", "parse_figure"]

Kind = Literal["duration", "size", "count"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure.

    Attributes:
        name: as typed in a budget: ``memory``.
        attribute: of `Usage`.
        kind: what its values are: seconds, bytes, or a number.
        meaning: a few words for a heading or a sentence.
    """

    name: str
    attribute: str
    kind: Kind
    meaning: str

    def of(self, usage: Usage) -> float | None:
        """The value in `usage`; None where the machine gave none."""
        value: float | None = getattr(usage, self.attribute)
        return value

    def parse(self, value: object) -> float:
        """What was typed as a limit, in the figure's unit; nothing at all (0) is a limit too. Raises ValueError."""
        return _PARSERS[self.kind](value)

    def typed(self, value: float) -> str:
        """At least `value`, in two places and the unit that fits, as `parse` takes it."""
        units = _UNITS.get(self.kind)
        if units is None or not value:
            return str(math.ceil(value))
        size, unit = next(((size, unit) for size, unit in units if value >= size), units[-1])
        places = 0 if unit == "B" else max(0, 1 - math.floor(math.log10(max(value / size, 1.0))))
        number = math.ceil(round(value / size * 10**places, 6)) / 10**places
        step = 10.0**-places
        if number >= 100:  # two places of three digits or more
            step = 10.0 ** (math.floor(math.log10(number)) - 1)
            number = math.ceil(number / step) * step
        while self.parse(text := f"{number:.{places}f}".removesuffix(".0") + unit) < value:
            number += step
        return text

    def show(self, value: float) -> str:
        """For people, with its unit."""
        return _SHOWN[self.kind](value)


def _duration(value: object) -> float:
    return 0.0 if whole_number(value) == 0 else parse_duration(value)


def _count(value: object) -> float:
    number = whole_number(value)
    if number is None or number < 0:
        raise ValueError(f"{shown(value)} is not a whole number, 0 or more")
    return number


def _shown_count(value: float) -> str:
    return f"{value:,.0f}"


_UNITS: Final[Mapping[Kind, tuple[tuple[float, str], ...]]] = {
    "size": ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B")),
    "duration": ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")),
}
"""What limits are proposed in, the largest first."""

_PARSERS: Final[Mapping[Kind, Callable[[object], float]]] = {"duration": _duration, "size": parse_size, "count": _count}
_SHOWN: Final[Mapping[Kind, Callable[[float], str]]] = {
    "duration": format_duration, "size": format_size, "count": _shown_count,
}  # fmt: skip

_TABLE: Final = (
    Figure("cpu", "cpu_seconds", "duration", "CPU time, user and system"),
    Figure("instructions", "cpu_instructions", "count", "instructions executed"),
    Figure("wall", "wall_seconds", "duration", "time inside the sandbox"),
    Figure("memory", "memory_peak_bytes", "size", "memory peak"),
    Figure("memory_own", "memory_own_bytes", "size", "memory peak without copies of pytest's own pages"),
    Figure("pids", "pids_peak", "count", "tasks at a time"),
    Figure("io_read", "io_read_bytes", "size", "read from block devices"),
    Figure("io_write", "io_write_bytes", "size", "written to block devices"),
    Figure("net_rx", "net_rx_bytes", "size", "received from the network"),
    Figure("net_tx", "net_tx_bytes", "size", "sent to the network"),
    Figure("disk", "disk_written_bytes", "size", "size of the writable layer"),
    Figure("processes_left", "leaked_processes", "count", "processes left behind"),
)

FIGURES: Final[Mapping[str, Figure]] = {figure.name: figure for figure in _TABLE}


def parse_figure(name: Any) -> Figure:
    """Raises ValueError naming those that there are."""
    if isinstance(name, str) and name in FIGURES:
        return FIGURES[name]
    raise ValueError(f"no figure {shown(name)}; figures: {', '.join(FIGURES)}")
