"""What the tests of a run came to, brought together in the process that reports it: pytest's own, or xdist's controller.

Records arrive as the attribute `isolate` of each test's last report, in a plain run as under xdist, so nothing else has to be
carried; sentences about the run that belong to no test (`add_note`) come from xdist's workers with their `workeroutput`. A run
without isolated tests doesn't pay for the modules behind it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_isolate.plugin.settings import settings_key

if TYPE_CHECKING:
    from pytest_isolate.plugin.baselines import Baselines
    from pytest_isolate.plugin.budget_status import BudgetStatus
    from pytest_isolate.plugin.preload import Imports
    from pytest_isolate.plugin.status import Workers
    from pytest_isolate.report.record import Run

__all__ = ["BREACH", "WORKER", "Collected", "add_note", "baselines_key", "collected_key", "register"]

_notes_key: Final = pytest.StashKey[dict[str, None]]()
_WORKER_NOTES: Final = "pytest_isolate_notes"

WORKER: Final = "isolate_answers"
"""Attribute of a report: the pid of a worker of xdist that answers SIGUSR1."""

BREACH: Final = "isolate_budget"
"""Attribute of a report that failed because of its test's budget."""

collected_key: Final[pytest.StashKey[Collected]] = pytest.StashKey()
"""On ``config.stash`` of the process that reports, from `pytest_configure` on; absent in xdist's workers."""

baselines_key: Final[pytest.StashKey[Baselines]] = pytest.StashKey()
"""Beside it, in a run that saves or compares a baseline."""


def register(config: pytest.Config) -> None:
    """To be called once in `pytest_configure`, after the settings are in the stash."""
    notes = config.stash[_notes_key] = dict[str, None]()
    if hasattr(config, "workerinput"):
        config.pluginmanager.register(_WorkerNotes(config, notes), "isolate-worker-notes")
    else:
        config.stash[collected_key] = collected = Collected(config, notes)
        config.pluginmanager.register(collected, "isolate-collected")


def add_note(config: pytest.Config, text: str) -> None:
    """Show `text` once in the section, whichever process says it and however often."""
    config.stash[_notes_key][text] = None


class Collected:
    """The run so far.

    Attributes:
        plain: how many tests ran without a sandbox.
        interrupted: by Ctrl-C, `pytest.exit`, an error of pytest's own or the crash of a worker, so that tests may be missing whatever the
            exit status says.
        started: seconds since the epoch.
    """

    def __init__(self, config: pytest.Config, notes: dict[str, None]) -> None:
        self._config = config
        self._statuses: BudgetStatus | None = None
        self.plain = 0
        self.interrupted = False
        self.started = time.time()
        settings = config.stash[settings_key]
        self._preloaded = settings.preload
        self._github = settings.github == "on" or (settings.github == "auto" and _on_github(os.environ))
        self._notes = notes
        self._imports: Imports | None = None
        self._workers: Workers | None = None
        self._outcomes: dict[tuple[str, str], str] = {}
        self._ended: list[tuple[Any, tuple[str, int | None, str], str, str]] = []
        self._run: Run | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # xdist names the worker; the same test on two of them (--dist=each) is two tests.
        key = str(getattr(report, "worker_id", "")), report.nodeid
        if self._statuses is None and hasattr(report, BREACH):
            self._show_budgets()
        outcome = _outcome(report, self._outcomes.pop(key, ""))
        if report.when != "teardown":
            self._outcomes[key] = outcome
        elif (data := getattr(report, "isolate", None)) is not None:
            # Kept as it is, which the report keeps as well: what a run holds makes every fork dearer.
            self._ended.append((data, report.location, outcome, key[0]))
            if self._statuses is None and isinstance(data, dict) and "budget" in data:
                self._show_budgets()
        else:
            self.plain += outcome != "rerun"
        if (pid := vars(report).pop(WORKER, None)) is not None:
            self.answer().add(pid)
        if imports := getattr(report, "isolate_imports", None):
            self._imported(imports)

    def pytest_keyboard_interrupt(self) -> None:
        """`pytest.exit` too."""
        self.interrupted = True

    def pytest_internalerror(self) -> None:
        self.interrupted = True

    def _show_budgets(self) -> None:
        from pytest_isolate.plugin.budget_status import BudgetStatus

        self._statuses = BudgetStatus(self._config, self)
        self._config.pluginmanager.register(self._statuses, "isolate-budgets")

    def answer(self) -> Workers:
        """In xdist's controller: SIGUSR1, from now on; the workers that answer it are to be added."""
        from pytest_isolate.plugin.status import Workers

        if self._workers is None:
            self._workers = Workers(self._config)
        return self._workers

    def _imported(self, imports: list[tuple[str, float]]) -> None:
        from pytest_isolate.plugin.preload import Imports

        if self._imports is None:
            self._imports = Imports(self._preloaded)
        for name, seconds in imports:
            self._imports.add(name, seconds)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """xdist's hook: a worker is done; one that crashed has no output, and the test that it was in no figures."""
        self.interrupted = self.interrupted or bool(error)
        for note in getattr(node, "workeroutput", {}).get(_WORKER_NOTES, ()):
            self._notes[str(note)] = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self) -> None:
        """Registers what makes the document, where something wants it that wasn't there in `pytest_configure`."""
        config = self._config
        if self._github:
            from pytest_isolate.plugin import github

            github.register(config)
        wanted = self._github or config.hook.pytest_isolate_report.get_hookimpls()
        if wanted and not config.pluginmanager.hasplugin("isolate-outputs"):
            from pytest_isolate.plugin import outputs

            outputs.register(config)

    def finished(self) -> Run | None:
        """The isolated tests that have ended by now, with every note that was made; None without one."""
        if self._ended:
            from pytest_isolate.report.record import Run, TestRecord

            for data, (file, line, _name), outcome, worker in self._ended:
                if (record := TestRecord.from_json(data)) is None:  # another plugin's attribute of that name
                    self.plain += outcome != "rerun"
                    continue
                self._run = self._run or Run()
                location = file, 0 if line is None else line + 1
                self._run.add(replace(record, outcome=outcome, worker=worker, location=location))
            self._ended.clear()
        if self._run is not None:
            for note in self._notes:
                self._run.note(note)
            if self._imports and (hint := self._imports.hint()):
                self._run.note(hint)
        return self._run


def _on_github(environment: Mapping[str, str]) -> bool:
    """In a step of GitHub Actions, and not below a test of it that runs pytest: what that says is the test's business."""
    return environment.get("GITHUB_ACTIONS") == "true" and "PYTEST_CURRENT_TEST" not in environment


def _outcome(report: pytest.TestReport, before: str) -> str:
    """pytest's word for a test, after one more of its reports (those of subtests included)."""
    if report.outcome not in ("passed", "failed", "skipped"):
        return str(report.outcome)  # pytest-rerunfailures': rerun
    expected = hasattr(report, "wasxfail")
    if report.failed:
        return "failed" if report.when == "call" or before == "failed" else "error"
    if report.skipped:
        return before if before == "failed" else "xfailed" if expected else "skipped"
    if report.when == "call":
        return before or ("xpassed" if expected else "passed")
    return before


class _WorkerNotes:
    """In a worker of xdist: hands the notes to the controller."""

    def __init__(self, config: pytest.Config, notes: dict[str, None]) -> None:
        self.config = config
        self.notes = notes

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        # xdist sends workeroutput at the end of its own wrapper around this hook.
        output: dict[str, Any] = self.config.workeroutput  # type: ignore[attr-defined]
        output[_WORKER_NOTES] = list(self.notes)
