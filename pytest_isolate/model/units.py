"""Human quantities to numbers and back: CPU shares, sizes, rates, durations.

The forms are Docker's and systemd's. Parsing is strict: a suffix that isn't known is an error, never a
guess. `MB` is 10^6 bytes and `MiB` 2^20; the one-letter `m` that Docker reads as MiB is refused, because
half of the readers take it for the other.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = [
    "assignment",
    "counted",
    "entries_of",
    "format_duration",
    "format_size",
    "parse_bit_rate",
    "parse_cpu",
    "parse_duration",
    "parse_fraction",
    "parse_rate",
    "parse_size",
    "shown",
    "whole_number",
]

_SIZES: Final = {
    "": 1,
    "B": 1,
    **{f"{prefix}B": 1000**power for power, prefix in enumerate(("k", "M", "G", "T"), 1)},
    **{f"{prefix}iB": 1024**power for power, prefix in enumerate(("K", "M", "G", "T"), 1)},
}
_BITS: Final = {
    "": 1,
    "bit": 1,
    **{f"{prefix}bit": 1000**power for power, prefix in enumerate(("k", "m", "g", "t"), 1)},
    **{f"{prefix}ibit": 1024**power for power, prefix in enumerate(("k", "m", "g", "t"), 1)},
}
_SLOWEST: Final = 8 * 1000
"""Bits per second. Slower, and one full packet takes more than a second."""
_DURATIONS: Final = {"": 1.0, "us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
_MOST_CPUS: Final = 8192
"""NR_CPUS of the largest kernels (arch/x86/Kconfig, MAXSMP)."""
_LONGEST: Final = 7 * 24 * 3600.0
"""poll(2) takes milliseconds in an int: 24 days."""
_QUANTITY: Final = r"([0-9]{1,30}(?:\.[0-9]{1,30})?)\s*([A-Za-z%]*)"


def _quantity(value: object) -> tuple[int | float, str]:
    """Split into number and suffix; whole numbers stay exact. Raises ValueError unless it's a non-negative quantity."""
    if isinstance(value, bool):
        raise ValueError(f"{shown(value)} is not a quantity")
    if isinstance(value, (int, float)):
        if not 0 <= value <= 1e30:
            raise ValueError(f"{shown(value)} is negative or beyond all measure")
        return value, ""
    if isinstance(value, str) and (match := re.fullmatch(_QUANTITY, value.strip(), re.ASCII)):
        return float(match[1]) if "." in match[1] else int(match[1]), match[2]
    raise ValueError(f"{shown(value)} is not a quantity")


def whole_number(value: object) -> int | None:
    """An int, or its digits; None for anything else, True and False included."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def assignment(text: str) -> tuple[str, str]:
    """``NAME=VALUE``. Raises ValueError."""
    name, sign, value = text.partition("=")
    if not sign:
        raise ValueError(f"{text!r} is not NAME=VALUE")
    return name, value


def entries_of(text: str) -> dict[str, str]:
    """``read=10MB/s,write=5MB/s`` as a mapping. Raises ValueError, also for an entry that is given twice."""
    pairs = [assignment(part) for part in text.split(",")]
    found = {name.strip(): value.strip() for name, value in pairs}
    if len(found) < len(pairs):
        raise ValueError(f"{text!r} gives an entry twice")
    return found


def parse_cpu(value: object) -> float:
    """Number of CPUs: ``"20%"`` is 0.2. Raises ValueError, also below 1 % (the kernel's least quota is 1 ms)."""
    number, suffix = _quantity(value)
    if suffix not in ("", "%"):
        raise ValueError(f"unknown unit {suffix!r} in {shown(value)}")
    cpus = number / 100 if suffix else number
    if cpus < 0.01:
        raise ValueError(f"{shown(value)} is less than 1% of a CPU, the least the kernel can cap")
    if cpus > _MOST_CPUS:
        raise ValueError(f"{shown(value)} is more CPUs than Linux can have ({_MOST_CPUS})")
    return float(cpus)


def parse_size(value: object) -> int:
    """Bytes. Raises ValueError."""
    number, suffix = _quantity(value)
    if suffix not in _SIZES:
        raise ValueError(f"unknown unit {suffix!r} in {shown(value)}")
    if isinstance(number, float) and _SIZES[suffix] == 1:
        raise ValueError(f"{shown(value)} is not a whole number of bytes")
    size: int = round(number * _SIZES[suffix])
    if size >= 2**63:
        raise ValueError(f"{shown(value)} is more than the kernel can count (8 EiB)")
    return size


def parse_rate(value: object) -> int:
    """Bytes per second, at least 1. Raises ValueError."""
    size = value
    if isinstance(value, str):
        text = value.strip()
        if not text.endswith("/s") and not text.isdigit():
            raise ValueError(f"{shown(value)} has no '/s'")
        size = text.removesuffix("/s")
    rate = parse_size(size)
    if rate < 1:
        raise ValueError(f"{shown(value)} stops all I/O")
    return rate


def parse_bit_rate(value: object) -> int:
    """Bits per second, in the units of tc(8): ``"10mbit"`` is 10,000,000. Raises ValueError, also below 8 kbit."""
    number, suffix = _quantity(value)
    if suffix.lower() not in _BITS:
        raise ValueError(f"unknown unit {suffix!r} in {shown(value)}")
    rate: int = round(number * _BITS[suffix.lower()])
    if rate < _SLOWEST:
        raise ValueError(f"{shown(value)} is less than 8kbit: one packet would take longer than a second")
    if rate > 10**13:
        raise ValueError(f"{shown(value)} is more than any link has")
    return rate


def parse_fraction(value: object) -> float:
    """Between 0 and 1: ``"1%"`` is 0.01. Raises ValueError, also for all or nothing."""
    number, suffix = _quantity(value)
    if suffix not in ("", "%"):
        raise ValueError(f"unknown unit {suffix!r} in {shown(value)}")
    fraction = number / 100 if suffix else number
    if not 0 < fraction < 1:
        raise ValueError(f"{shown(value)} is not more than 0% and less than 100%")
    return float(fraction)


def parse_duration(value: object) -> float:
    """Seconds, more than 0. Raises ValueError."""
    number, suffix = _quantity(value)
    if suffix not in _DURATIONS:
        raise ValueError(f"unknown unit {suffix!r} in {shown(value)}")
    if number <= 0:
        raise ValueError(f"{shown(value)} ends every test before it starts")
    seconds = number * _DURATIONS[suffix]
    if seconds > _LONGEST:
        raise ValueError(f"{shown(value)} is longer than a week")
    return seconds


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


def counted(number: int, noun: str) -> str:
    """``1 test``, ``2 tests``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def shown(value: object) -> str:
    """`repr` of what somebody typed, for a message: at most 200 characters, and never an exception of its own."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - any code of the value's class may run
        text = f"<{type(value).__name__} object>"
    return text if len(text) <= 200 else text[:199] + "…"
