"""pytest runs with the real plugin in a process of their own, and their reports as data.

The reports are what the terminal's process saw: pytest itself, or the controller of xdist. Other installed
plugins stay out; a test that is about one names it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.capabilities import requires
from tests.support.unprivileged import cgroup_options, delegated_cgroup, pytest_as_user, user_directory

__all__ = ["EVERY_WAY", "Report", "Run", "run"]

EVERY_WAY = pytest.mark.parametrize(
    "how", ["alone", "xdist", pytest.param("user", marks=requires("root", "unprivileged-user", "userns"))]
)
"""The ways to run that `run` takes."""

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
    """
    Attributes:
        files: the text of those that `run` was told to keep, by path.
    """

    result: pytest.RunResult
    reports: list[Report]
    files: Mapping[str, str] = field(default_factory=dict)

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


def run(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, *args: str, how: str = "alone", keep: Sequence[str] = ()
) -> Run:
    """Run pytest with the plugin on what `pytester` holds.

    Args:
        how: ``alone``; ``xdist``: with two workers; ``user``: as the unprivileged user, with a delegated cgroup.
        keep: files that the run makes and the test reads, relative to its directory.
    """
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"):
        monkeypatch.delenv(name, raising=False)
    (pytester.path / "isolated_runs_recorder.py").write_text(_RECORDER)
    args = ("-p", "pytest_isolate.plugin", "-p", "isolated_runs_recorder", *args)
    if how == "user":
        return _run_as_user(pytester.path, *args, keep=keep)
    reports = pytester.path / "reports.jsonl"
    reports.unlink(missing_ok=True)
    if how == "xdist":
        args = (*args, "-p", "xdist", "-n", "2")
    return Run(pytester.runpytest_subprocess(*args, timeout=120), _read(reports), _kept(pytester.path, keep))


def _kept(directory: Path, names: Sequence[str]) -> dict[str, str]:
    return {name: (directory / name).read_text(encoding="utf-8") for name in names if (directory / name).exists()}


def _run_as_user(directory: Path, *args: str, keep: Sequence[str]) -> Run:
    files = {path.name: path.read_text() for path in directory.iterdir() if path.suffix in (".py", ".ini", ".toml")}
    env = {name: os.environ[name] for name in ("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "COLUMNS")}
    with user_directory(files) as place, delegated_cgroup() as group:
        begun = time.monotonic()
        done = pytest_as_user(*args, *cgroup_options(group), cwd=place, env=env)
        result = pytest.RunResult(done.returncode, done.stdout.splitlines(), done.stderr.splitlines(), time.monotonic() - begun)
        return Run(result, _read(place / "reports.jsonl"), _kept(place, keep))


def _read(path: Path) -> list[Report]:
    lines = path.read_text().splitlines() if path.exists() else []
    return [Report(**{**json.loads(line), "sections": _pairs(line)}) for line in lines]


def _pairs(line: str) -> list[tuple[str, str]]:
    return [(title, text) for title, text in json.loads(line)["sections"]]
