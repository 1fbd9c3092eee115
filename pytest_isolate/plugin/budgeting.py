"""The budget of one attempt at a test: measured while the test process waits at the end of its call, judged then and at its end.

What is over at the end of the call fails the call, though the test process passed it; what shows later fails the teardown. A test
that failed already keeps its failure, one that is skipped is not judged. To pytest a breach is an error like any other: xfail, reruns
and subtests do with it what they do with an assertion. Made only for tests that have a budget.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import pytest

from pytest_isolate.kernel.cgroup import anonymous_memory
from pytest_isolate.kernel.copied_pages import Ranges, copied, mappings
from pytest_isolate.model.budget import AT_END, Judged, breached, judge
from pytest_isolate.model.spec import Spec
from pytest_isolate.model.usage import Usage
from pytest_isolate.plugin import reports
from pytest_isolate.plugin.history import former
from pytest_isolate.plugin.marks import places_key
from pytest_isolate.report.budget import KIND, TITLE, sentence, text
from pytest_isolate.report.record import Problem
from pytest_isolate.sandbox import Sandbox

__all__ = ["Budgeted"]

_OF_HEAP: Final = ("memory", "memory_own")
_STRICT: Final = "[XPASS(strict)]"
"""How pytest's report of a test begins that was to fail and didn't; nothing was raised in it."""


class Budgeted:
    """
    Args:
        spec: after weakening.
        box: the test's sandbox.
        fails: a breach fails the test; else it is only listed.
    """

    def __init__(self, item: pytest.Item, spec: Spec, box: Sandbox, *, fails: bool) -> None:
        self._item = item
        self._budget = spec.budget
        self._places: Mapping[str, str] = item.stash.get(places_key, {})
        self._box = box
        self._fails = fails
        self._heap: Ranges = ()
        self._of_heap = any(figure in _OF_HEAP for figure, _limit in spec.budget)
        self._began = self._stopped = self._paused = 0.0
        self._inherited: int | None = None
        self._judged: tuple[Judged, ...] = ()
        self._usage = Usage()
        self._passed = self._failed = self._skipped = False

    def fork(self) -> None:
        """Right before the fork."""
        if self._of_heap:
            self._heap = mappings()

    def joined(self) -> None:
        """Right after it."""
        self._began = time.perf_counter()

    def stop(self) -> None:
        """A phase has ended: what pytest does until the next one is none of the test's time."""
        self._stopped = time.perf_counter()

    def go_on(self) -> None:
        """The next one begins."""
        if self._stopped:
            self._paused += time.perf_counter() - self._stopped
            self._stopped = 0.0

    def called(self, pid: int) -> None:
        """At the end of the call, while the test process, `pid`, waits."""
        self.stop()
        if self._of_heap:
            try:
                group = self._box.group
                charged = anonymous_memory(group) if group is not None else None
                self._inherited = copied(pid, self._heap, charged)
            except OSError:  # it can't be looked into; a limit on memory_own stays unmeasured
                self._inherited = None
        self._so_far()

    def _so_far(self) -> None:
        wall = (self._stopped or time.perf_counter()) - self._began
        self._judge(replace(self._box.usage(), wall_seconds=wall), early=True)

    def ended(self, usage: Usage) -> Usage:
        """Judge the final figures; they come back with what was measured here."""
        self._judge(usage, early=False)
        return replace(usage, memory_inherited_bytes=self._inherited)

    def _judge(self, usage: Usage, *, early: bool) -> None:
        wall = None if usage.wall_seconds is None else usage.wall_seconds - self._paused
        self._usage = replace(usage, wall_seconds=wall, memory_inherited_bytes=self._inherited)
        self._judged = judge(self._budget, self._usage, self._places, AT_END if early else ())

    def breach(self, when: str, given: pytest.TestReport | None) -> pytest.ExceptionInfo[BaseException] | None:
        """What the end of a phase raises because of the budget; None where nothing does.

        Args:
            given: the phase's report by the test process. One that a breach takes the place of no longer says that the test was to fail.
        """
        self._skipped = self._skipped or (given is not None and given.skipped and not hasattr(given, "wasxfail"))
        if when == "call":
            self._passed = given is not None and (given.passed or _is_strict_xpass(given))
        elif when != "teardown" or (given is not None and not given.passed):
            return None
        over = breached(self._judged) if when == "call" else [each for each in self._judged if each.verdict != "within"]
        if not (self._fails and self._passed and over and not self._failed):
            return None
        self._failed = True
        if given is not None and when == "call":
            given.outcome, given.longrepr = "passed", None
            vars(given).pop("wasxfail", None)
        try:
            reports.fail_at(self._item, self._text())
        except pytest.fail.Exception:
            return pytest.ExceptionInfo.from_current()

    def section(self, *, alive: bool) -> list[tuple[str, str]]:
        """For a report that failed by something else."""
        if self._failed:
            return []
        if alive and self._began:
            self._so_far()
        return [(TITLE, self._text())] if breached(self._judged) else []

    def _text(self) -> str:
        return text(self._judged, self._usage, former(self._item.config, self._item.nodeid))

    @property
    def judged(self) -> tuple[Judged, ...]:
        """Every limit, as it was judged last; none of a test that was skipped."""
        return () if self._skipped else self._judged

    def problems(self, *, failed: bool) -> tuple[Problem, ...]:
        """For the test's record, of a test that `failed`, because of this or of something else."""
        return (Problem(KIND, said, failed and self._failed),) if (said := sentence(self.judged)) else ()


def _is_strict_xpass(report: Any) -> bool:
    return bool(report.failed) and isinstance(report.longrepr, str) and report.longrepr.startswith(_STRICT)
