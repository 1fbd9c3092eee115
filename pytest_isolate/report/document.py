"""A run as one JSON document: what ``--isolate-json`` writes, and what pages, comparisons and summaries are made from.

``report.schema.json`` beside this module describes it (JSON Schema 2020-12). Its version goes up when a reader of an older
one would misread a document; members that are added don't count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pytest_isolate.model.usage import Usage
from pytest_isolate.report.record import Run, TestRecord

__all__ = ["VERSION", "document"]

VERSION: Final = 1
"""Of the document's shape."""

_SUMS: Final = ("cpu_seconds", "wall_seconds", "setup_seconds", "io_read_bytes", "io_write_bytes", "oom_kills")
_PEAKS: Final = ("memory_peak_bytes", "pids_peak")


def document(run: Run, *, plain: int, about: Mapping[str, Any], capabilities: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The whole of a run, as builtin types.

    Args:
        plain: tests that ran without a sandbox.
        about: when, how, where and with what; the members ``run``, ``tool`` and ``machine`` of the document.
        capabilities: what the doctor knows of this machine; empty where it wasn't asked.
    """
    attempts: dict[tuple[str, str], int] = {}
    tests = []
    for record in run.attempts:
        number = attempts[record.worker, record.nodeid] = attempts.get((record.worker, record.nodeid), 0) + 1
        tests.append(_test(record, number))
    return {
        "version": VERSION,
        **about,
        "tests": tests,
        "plain_tests": plain,
        "totals": _totals(run),
        "weakened": run.weakened(),
        "notes": list(run.notes),
        "capabilities": [dict(capability) for capability in capabilities],
    }


def _test(record: TestRecord, attempt: int) -> dict[str, Any]:
    return {"attempt": attempt, **record.to_json()}


def _totals(run: Run) -> dict[str, Any]:
    """Sums and peaks over all attempts; what is known of none is left out."""
    known = {name: run.total(name) for name in _SUMS} | {name: run.highest(name) for name in _PEAKS}
    figures = Usage.from_json({name: value for name, value in known.items() if value is not None}).to_json()
    outcomes: dict[str, int] = {}
    for record in run.tests:
        outcomes[record.outcome] = outcomes.get(record.outcome, 0) + 1
    return {"tests": len(run.tests), "attempts": len(run.attempts), "outcomes": outcomes, "usage": figures}
