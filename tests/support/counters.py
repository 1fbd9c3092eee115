"""Events that stand for instructions: one that every machine counts, one that none does."""

from __future__ import annotations

from typing import Final

from pytest_isolate.kernel import perf_event
from pytest_isolate.kernel.perf_event import INSTRUCTIONS, Event

__all__ = ["refused_event", "standing_for_instructions"]

# An event of software whose number no kernel has: ENOENT.
_NOWHERE: Final = Event(INSTRUCTIONS.name, 1, 1 << 32)


def refused_event() -> Event:
    """Instructions where this machine can't count them, else an event of their name that no machine counts."""
    return _NOWHERE if perf_event.refusal() is None else INSTRUCTIONS


def standing_for_instructions(event: Event) -> str:
    """A conftest.py of a suite in which `event` is counted in the place of instructions."""
    return f"""
from pytest_isolate.kernel import perf_event
perf_event.INSTRUCTIONS = perf_event.Event({event.name!r}, {event.type}, {event.config})
perf_event.refusal.__defaults__ = (perf_event.INSTRUCTIONS,)
"""
