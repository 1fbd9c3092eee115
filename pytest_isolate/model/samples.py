"""What one sandbox had over its time: rows as they are sampled, and what of them a report carries.

Whoever samples only ever appends to a file, so that whoever reads it needs no lock and no answer: each row is one write of
a few numbers. To keep the file of a long test small the sampler doubles its pace after every so many rows, and the
reader brings the rows before to that pace.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["COLUMNS", "LEAST_INTERVAL", "MOST_ROWS", "Row", "Samples", "pack", "unpack"]

COLUMNS: Final = ("seconds", "memory_bytes", "cpu_seconds", "cpu_throttled_seconds", "oom_kills")
"""Of a row: the time since the test joined its sandbox, memory charged then, and three counters so far."""

MOST_ROWS: Final = 500
"""That a report carries of one test."""

LEAST_INTERVAL: Final = 0.01

_ROW: Final = struct.Struct("<5d")

Row = tuple[float, int | None, float | None, float | None, int | None]


def pack(row: Row) -> bytes:
    """For `unpack`."""
    return _ROW.pack(*(math.nan if value is None else value for value in row))


def unpack(data: bytes) -> list[Row]:
    """The rows in `data`; half a row at its end is left out."""
    whole = len(data) - len(data) % _ROW.size
    return [
        (seconds, _count(memory), _known(cpu), _known(throttled), _count(kills))
        for seconds, memory, cpu, throttled, kills in _ROW.iter_unpack(data[:whole])
    ]


def _known(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)


def _count(value: float) -> int | None:
    return None if math.isnan(value) else int(value)


@dataclass(frozen=True, slots=True)
class Samples:
    """Of one test.

    Attributes:
        interval: seconds between two rows, as far as the sampler came to its turn.
        rows: in the order of time, of `COLUMNS`.
    """

    interval: float
    rows: tuple[Row, ...]

    @classmethod
    def of(cls, interval: float, rows: Iterable[Row], most: int = MOST_ROWS) -> Samples:
        """`rows`, sampled every `interval` seconds at first, thinned out evenly until they are at most `most`; the last one stays."""
        kept = list(rows)
        while len(kept) > most:
            interval *= 2
            kept = _thinned(kept, interval)
        return cls(interval, tuple((round(row[0], 4), *row[1:]) for row in kept))

    def to_json(self) -> dict[str, Any]:
        return {"interval": self.interval, "columns": list(COLUMNS), "rows": [list(row) for row in self.rows]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Samples:
        """Raises KeyError, TypeError, ValueError where it isn't one."""
        rows = tuple((seconds, memory, cpu, throttled, kills) for seconds, memory, cpu, throttled, kills in data["rows"])
        return cls(float(data["interval"]), rows)


def _thinned(rows: list[Row], interval: float) -> list[Row]:
    """The first row of each interval, and the very last."""
    kept: list[Row] = []
    former = -1
    for row in rows[:-1]:
        # The sampler wakes up at multiples of its interval or a moment later; a multiple itself may be just below one as a float.
        if (place := int(row[0] / interval + 1e-6)) > former:
            kept.append(row)
            former = place
    return [*kept, rows[-1]]
