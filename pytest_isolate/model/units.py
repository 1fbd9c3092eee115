"""Human quantities to numbers and back: CPU shares, sizes, rates, durations.

The forms are Docker's and systemd's. Parsing is strict: a suffix that isn't known is an error, never a
guess. `MB` is 10^6 bytes and `MiB` 2^20; the one-letter `m` that Docker reads as MiB is refused, because
half of the readers take it for the other.
"""

from __future__ import annotations

import math
import re
from typing import Final

__all__ = [
    "CPU_FORM",
    "DURATION_FORM",
    "RATE_FORM",
    "SIZE_FORM",
    "format_duration",
    "format_size",
    "parse_cpu",
    "parse_duration",
    "parse_rate",
    "parse_size",
]

CPU_FORM: Final = 'share of one CPU: "20%", 0.2, 2, "150%"'
SIZE_FORM: Final = 'bytes: 1048576, "64MiB", "1.5GB" (B, kB, MB, GB, TB, KiB, MiB, GiB, TiB)'
RATE_FORM: Final = 'bytes per second: 1048576, "10MB/s", "512KiB/s"'
DURATION_FORM: Final = 'seconds: 2, 0.5, "500ms", "5s", "2min", "1h"'

_SIZES: Final = {
    "": 1,
    "B": 1,
    **{f"{prefix}B": 1000**power for power, prefix in enumerate(("k", "M", "G", "T"), 1)},
    **{f"{prefix}iB": 1024**power for power, prefix in enumerate(("K", "M", "G", "T"), 1)},
}
_DURATIONS: Final = {"": 1.0, "us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
_QUANTITY: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z%]*)", re.ASCII)


def _quantity(value: object) -> tuple[float, str]:
    """Split into number and suffix. Raises ValueError for anything that isn't a non-negative quantity."""
    if isinstance(value, bool):
        raise ValueError("a truth value is no quantity")
    if isinstance(value, (int, float)):
        if not math.isfinite(value) or value < 0:
            raise ValueError(f"{value!r} is not a non-negative number")
        return float(value), ""
    if isinstance(value, str) and (match := _QUANTITY.fullmatch(value.strip())):
        return float(match[1]), match[2]
    raise ValueError(f"{value!r} is not a quantity")


def parse_cpu(value: object) -> float:
    """Number of CPUs: ``"20%"`` is 0.2. Raises ValueError, also below 1 % (the kernel's least quota is 1 ms)."""
    number, suffix = _quantity(value)
    if suffix not in ("", "%"):
        raise ValueError(f"unknown unit {suffix!r} in {value!r}")
    cpus = number / 100 if suffix else number
    if cpus < 0.01:
        raise ValueError(f"{value!r} is less than 1% of a CPU, the least the kernel can cap")
    return cpus


def parse_size(value: object) -> int:
    """Bytes. Raises ValueError."""
    if isinstance(value, float):
        raise ValueError(f"{value!r} is not a whole number of bytes")
    number, suffix = _quantity(value)
    if suffix not in _SIZES:
        raise ValueError(f"unknown unit {suffix!r} in {value!r}")
    return int(value) if isinstance(value, int) else round(number * _SIZES[suffix])


def parse_rate(value: object) -> int:
    """Bytes per second, at least 1. Raises ValueError."""
    if isinstance(value, str):
        if not value.strip().endswith("/s"):
            raise ValueError(f"{value!r} has no '/s'")
        value = value.strip().removesuffix("/s")
    rate = parse_size(value)
    if rate < 1:
        raise ValueError("a rate of 0 stops all I/O")
    return rate


def parse_duration(value: object) -> float:
    """Seconds, more than 0. Raises ValueError."""
    number, suffix = _quantity(value)
    if suffix not in _DURATIONS:
        raise ValueError(f"unknown unit {suffix!r} in {value!r}")
    if number <= 0:
        raise ValueError("a duration of 0 ends every test before it starts")
    return number * _DURATIONS[suffix]


def format_size(size: float) -> str:
    """``67108864`` as ``64.0 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def format_duration(seconds: float) -> str:
    """Three significant places with the unit that fits: ``1.20 ms``, ``3.45 s``, ``2 min 05 s``."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 60:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"
