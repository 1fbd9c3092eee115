"""Whether instructions can be counted here: tried, and explained where they can't."""

from __future__ import annotations

from pytest_isolate.kernel.perf_event import paranoid, refusal
from pytest_isolate.machine.causes import Cause, counters
from pytest_isolate.machine.reading import read_machine

__all__ = ["uncounted"]


def uncounted() -> Cause | None:
    """Why this process can't count them; None where it can."""
    error = refusal()
    return None if error is None else counters(read_machine(), error.errno or 0, paranoid())
