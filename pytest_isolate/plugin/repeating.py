"""``--isolate-repeat=N``: each isolated test runs N times under its one node id, and counts as one test.

The runs before the last are pytest's own for the item, with everything that wraps it (time limits, warnings, the fork), one whole
`pytest_runtest_protocol` each, but nobody is told of them: their reports aren't logged, and what they used goes with the record of
the last run, which is an ordinary one. So counts, JUnit XML, pages and node ids are those of a run without the option. As soon
as a run isn't simply passed, its reports are logged in place of those of the last: a test that fails at its third time fails.

Only what is the item's own is set up again: the next item of a run is a copy of the item, so that fixtures of its class and module stay.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

import pytest

from pytest_isolate.model.usage import Usage
from pytest_isolate.plugin import private
from pytest_isolate.plugin.marks import quiet_key, spec_key
from pytest_isolate.report.record import Problem

__all__ = ["Repeat", "register"]


_REFUSED: Final = (KeyboardInterrupt, pytest.exit.Exception)


class Repeat:
    """The plugin object that wraps each item's protocol.

    Args:
        times: how often each isolated test runs, at least 2.

    Attributes:
        usages: of the runs of the present item that have passed.
        problems: of those runs, one of each kind; they failed nothing.
        number: of the present run, from 1; 0: it isn't one of several.
        quiet: nobody is to be told of the present run.
        over: the reports of the run that didn't pass, as long as nobody was told of them.
    """

    def __init__(self, times: int) -> None:
        self.times = times
        self.usages: list[Usage] = []
        self.problems: list[Problem] = []
        self.number = 0
        self.quiet = False
        self.over: list[pytest.TestReport] = []
        self._failed = False
        self._warned: set[tuple[str, type[Warning], str, int]] = set()

    @pytest.hookimpl(wrapper=True, tryfirst=True)  # outermost: the other wrappers see one run after the other
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        if self.quiet or spec_key not in item.stash or item.config.option.setupplan:
            return (yield)
        self.usages, self.problems, self.over = [], [], []
        self._warned.clear()
        following = copy.copy(item)
        for number in range(1, self.times):
            self._run_quietly(item, following, number)
            if len(self.usages) < number:
                break
        self.number = self.times if len(self.usages) == self.times - 1 else 0
        return (yield)

    def _run_quietly(self, item: pytest.Item, following: pytest.Item, number: int) -> None:
        properties, captured = list(item.user_properties), private.captured_sections(item)
        sections = list(captured)
        writer = private.junit(item.config)
        of_suite = len(writer.global_properties) if writer is not None else 0
        self.number = number
        self.quiet = item.stash[quiet_key] = True
        self._failed = False
        try:
            item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
        finally:
            self.quiet = item.stash[quiet_key] = False
        if not self.over:  # its reports are made of them
            item.user_properties[:], captured[:] = properties, sections
            if writer is not None:
                del writer.global_properties[of_suite:]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A subtest that failed is told of at once; pytest fails its test where it is shown, and not in the test's own reports."""
        if self.quiet and report.failed:
            self._failed = True

    def take(self, item: pytest.Item, reports: list[pytest.TestReport]) -> None:
        """What came of a quiet run."""
        record = getattr(reports[-1], "isolate", None)
        if (
            record is not None
            and not self._failed
            and all(report.passed and not hasattr(report, "wasxfail") for report in reports)
        ):
            self.usages.append(Usage.from_json(record["usage"]))
            self._note_problems(record)
            return
        self.usages, self.problems = [], []
        if not (any(report.failed for report in reports) and _is_rerun(item)):
            self.over = reports
            return
        for report in reports:
            if report.failed:
                # As pytest-rerunfailures has it: this one failed, and another one follows, which is its to repeat.
                report.outcome = "rerun"  # type: ignore[assignment]
        _log(item, reports)

    def _note_problems(self, record: Mapping[str, Any]) -> None:
        known = {problem.kind for problem in self.problems}
        for problem in map(Problem.from_json, record["problems"]):
            if problem.kind not in known:
                self.problems.append(replace(problem, text=f"{problem.sentence} (run {self.number} of {self.times})"))

    def added(self, problems: Sequence[Problem]) -> tuple[Problem, ...]:
        """`problems` of the present run, with those of the runs before that it hasn't."""
        kinds = {problem.kind for problem in problems}
        return (*problems, *(problem for problem in self.problems if problem.kind not in kinds))

    def only_new(self, recorded: list[warnings.WarningMessage]) -> None:
        """Take out of a run's warnings, before pytest shows them, those that a run before had too."""
        keys = [(str(found.message), found.category, found.filename, found.lineno) for found in recorded]
        recorded[:] = [found for found, key in zip(recorded, keys, strict=True) if key not in self._warned]
        self._warned.update(keys)

    def end(self, item: pytest.Item, nextitem: pytest.Item | None) -> None:
        """In place of the last run, which isn't to come: tell of the one that didn't pass, and tear down what it left for another one."""
        reports, self.over = self.over, []
        teardown = reports[-1]
        call = pytest.CallInfo.from_call(partial(private.tear_down_until, item, nextitem), "teardown", reraise=_REFUSED)
        if call.excinfo is not None:
            failed = pytest.TestReport.from_item_and_call(item, call)
            if teardown.passed:
                teardown.outcome, teardown.longrepr = failed.outcome, failed.longrepr
            else:
                teardown.sections.append(("isolate: teardown of wider fixtures", failed.longreprtext))
        _log(item, reports)

    def note(self, report: pytest.TestReport) -> None:
        """A failing report says which of the runs it is of."""
        if self.number:
            report.sections.append(("isolate: repeated", f"run {self.number} of {self.times} (--isolate-repeat={self.times})"))


def _log(item: pytest.Item, reports: Sequence[pytest.TestReport]) -> None:
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)


def _is_rerun(item: pytest.Item) -> bool:
    """Whether pytest-rerunfailures is going to run the item again, which failed: as that plugin says itself."""
    plugin: Any = item.config.pluginmanager.get_plugin("rerunfailures")
    if plugin is None or not plugin.get_reruns_count(item) or any(getattr(item, "_terminal_errors", {}).values()):
        return False  # the last: what --only-rerun and --rerun-except leave out
    if (excluded := getattr(plugin, "_is_rerun_path_excluded", None)) and excluded(item):
        return False
    failures = getattr(plugin, "_get_reruns_condition_failures", None)
    return bool(plugin.get_reruns_condition(item, failures(item)) if failures else plugin.get_reruns_condition(item))


class _Quiet:
    """In place of whatever runs an item. A plugin of its own, because one object can't have two implementations of one hook."""

    def __init__(self, repeat: Repeat) -> None:
        self._repeat = repeat

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        if self._repeat.quiet:
            self._repeat.take(item, private.run_unlogged(item, nextitem))
            return True
        if self._repeat.over:
            self._repeat.end(item, nextitem)
            return True
        return None


def register(config: pytest.Config, times: int) -> Repeat:
    """To be called once, before the first test."""
    repeat = Repeat(times)
    config.pluginmanager.register(repeat, "isolate-repeat")
    config.pluginmanager.register(_Quiet(repeat), "isolate-quiet")
    return repeat
