"""Whether instructions can be counted here: tried, and explained where they can't."""

from __future__ import annotations

from pytest_isolate.kernel.perf_event import paranoid, refusal
from pytest_isolate.machine.causes import Cause, counters
from pytest_isolate.machine.facts import Machine
from pytest_isolate.machine.reading import read_machine

__all__ = ["uncounted"]


def uncounted(machine: Machine | None = None) -> Cause | None:
    """Why this process can't count them; None where it can.

    Args:
        machine: its facts; None: they are read where they are needed.
    """
    error = refusal()
    return None if error is None else counters(machine or read_machine(), error.errno or 0, paranoid())
