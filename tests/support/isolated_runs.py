"""pytest runs with the real plugin in a process of their own, and their reports as data.

The reports are what the terminal's process saw: pytest itself, or the controller of xdist. Other installed
plugins stay out; a test that is about one names it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

__all__ = ["Report", "Run", "run"]

ROOT = Path(__file__).parents[2]

_RECORDER = """
import json
import pytest

class Recorder:
    def __init__(self, path):
        self.path = path
    def pytest_runtest_logreport(self, report):
        with open(self.path, "a") as file:
            file.write(json.dumps({
                "name": report.nodeid.partition("::")[2], "when": report.when, "outcome": report.outcome,
                "longrepr": report.longreprtext, "sections": report.sections,
                "properties": dict(report.user_properties), "isolate": getattr(report, "isolate", None),
            }) + "\\n")

@pytest.hookimpl(trylast=True)
def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder(config.rootpath / "reports.jsonl"))
"""


@dataclass(frozen=True)
class Report:
    """One report. `isolate` is the record that the last report of a test carries."""

    name: str
    when: str
    outcome: str
    longrepr: str
    sections: list[tuple[str, str]]
    properties: dict[str, Any]
    isolate: dict[str, Any] | None

    @property
    def text(self) -> str:
        """`longrepr` without the line that says which worker it was."""
        return self.longrepr.partition("\n")[2] if self.longrepr.startswith("[gw") else self.longrepr

    @property
    def first_line(self) -> str:
        return self.text.partition("\n")[0]

    def section(self, title: str) -> str:
        """The text of one section; empty if there is none."""
        return "\n".join(text for name, text in self.sections if name == title)


@dataclass(frozen=True)
class Run:
    result: pytest.RunResult
    reports: list[Report]

    def __iter__(self) -> Iterator[Report]:
        return iter(self.reports)

    def of(self, name: str, when: str) -> Report:
        """The one report of a phase. Raises AssertionError unless there is exactly one."""
        found = [report for report in self.reports if (report.name, report.when) == (name, when)]
        assert len(found) == 1, f"{len(found)} reports of {name} {when}:\n{self.result.stdout.str()}"
        return found[0]

    def failed(self) -> set[tuple[str, str]]:
        return {(report.name, report.when) for report in self.reports if report.outcome == "failed"}

    def problems(self, name: str) -> list[tuple[str, bool]]:
        """Kind and `failed` of each problem in the test's record."""
        records = [report.isolate for report in self.reports if report.name == name and report.isolate]
        assert len(records) == 1, f"{len(records)} records of {name}"
        return [(problem["kind"], problem["failed"]) for problem in records[0]["problems"]]

    @property
    def output(self) -> str:
        return self.result.stdout.str() + self.result.stderr.str()


def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, *args: str) -> Run:
    """Run pytest with the plugin on what `pytester` holds."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    (pytester.path / "isolated_runs_recorder.py").write_text(_RECORDER)
    reports = pytester.path / "reports.jsonl"
    reports.unlink(missing_ok=True)
    plugins = ["-p", "pytest_isolate.plugin", "-p", "isolated_runs_recorder"]
    if "-n" in args:
        plugins += ["-p", "xdist"]
    result = pytester.runpytest_subprocess(*plugins, *args, timeout=120)
    lines = reports.read_text().splitlines() if reports.exists() else []
    return Run(result, [Report(**{**json.loads(line), "sections": _pairs(line)}) for line in lines])


def _pairs(line: str) -> list[tuple[str, str]]:
    return [(title, text) for title, text in json.loads(line)["sections"]]
