"""GitHub Actions is told of a run where its variables are set; `--isolate-metrics` writes a file for GitLab."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.support.capabilities import requires
from tests.support.isolated_runs import Run, run
from tests.unit.test_github import cells, read
from tests.unit.test_openmetrics import gitlab, samples

pytestmark = requires("root", "cgroup-memory")

SUITE = """
import subprocess
import pytest


@pytest.mark.isolate(memory="64MiB")
def test_too_big():
    b"x" * (100 << 20)


class TestThings:
    @pytest.mark.isolate
    def test_leaves_something(self):
        subprocess.Popen(["sleep", "60"])

    def test_plain(self):
        assert 0
"""


class Step:
    """A pytest run in a step of GitHub Actions."""

    def __init__(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = pytester.path
        self.summary = pytester.path / "step_summary"
        self._pytester, self._monkeypatch = pytester, monkeypatch
        for name in ("GITHUB_ACTIONS", "GITHUB_WORKSPACE", "GITHUB_STEP_SUMMARY"):
            monkeypatch.delenv(name, raising=False)

    def set(self, **variables: str) -> None:
        for name, value in variables.items():
            self._monkeypatch.setenv(f"GITHUB_{name}", value)

    def run(self, *args: str, how: str = "alone", nested: bool = False) -> Run:
        if not nested:
            self._monkeypatch.delenv("PYTEST_CURRENT_TEST", raising=False)
        return run(self._pytester, self._monkeypatch, *args, how=how)


@pytest.fixture
def step(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Step:
    step = Step(pytester, monkeypatch)
    step.set(ACTIONS="true", WORKSPACE=str(pytester.path.parent), STEP_SUMMARY=str(step.summary))
    pytester.makepyfile(test_it=SUITE)
    return step


def commands(done: Run) -> list[tuple[str, dict[str, str], str]]:
    return [read(line) for line in done.result.outlines if line.startswith("::")]


@pytest.mark.parametrize("how", ["alone", "xdist"])
def test_step_of_github_actions_has_annotations_and_a_summary(step: Step, how: str):
    done = step.run(how=how)
    done.result.assert_outcomes(passed=1, failed=2)
    file = f"{step.directory.name}/test_it.py"
    (error, warning) = commands(done)
    assert error[:2] == ("error", {"file": file, "line": "5", "title": "OOM: test_it.py::test_too_big"})
    assert re.fullmatch(r"OOM: used 6\d\.\d of 64 MiB, killed .*", error[2])
    assert warning[:2] == (
        "warning",
        {"file": file, "line": "11", "title": "LEAK: test_it.py::TestThings::test_leaves_something"},
    )
    assert re.fullmatch(r"1 process left behind: sleep \(pid \d+\)", warning[2])
    assert "::error" not in done.result.stderr.str()
    rows = cells(step.summary.read_bytes()).rows
    assert [row[:2] for row in rows[:3]] == [
        ["", "test"], ["OOM", "test_it.py::test_too_big"], ["LEAK", "test_it.py::TestThings::test_leaves_something"],
    ]  # fmt: skip
    assert {row[0] for row in rows[4:]} == {"test_it.py::test_too_big", "test_it.py::TestThings::test_leaves_something"}


def test_summary_is_added_to_what_the_step_has(step: Step):
    step.summary.write_text("# Before\n")
    step.run()
    assert step.summary.read_text().startswith("# Before\n### pytest-isolate: 2 isolated tests\n")
    step.summary.write_bytes(b"x" * ((1 << 20) - 100))
    step.run()
    assert step.summary.stat().st_size == (1 << 20) - 100


def test_variables_that_are_missing_leave_out_their_part(step: Step, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("GITHUB_STEP_SUMMARY")
    monkeypatch.delenv("GITHUB_WORKSPACE")
    assert [set(properties) for _, properties, _ in commands(step.run())] == [{"title"}, {"title"}]
    assert not step.summary.exists()


def test_run_without_a_terminal_reporter_has_the_summary_alone(step: Step):
    done = step.run("-p", "no:terminal")
    assert done.result.ret == pytest.ExitCode.TESTS_FAILED
    assert commands(done) == []
    assert cells(step.summary.read_bytes()).rows[1][:2] == ["OOM", "test_it.py::test_too_big"]


@pytest.mark.parametrize("why", ["option", "ini", "not GitHub", "below a test"])
def test_nothing_is_said(step: Step, pytester: pytest.Pytester, why: str):
    if why == "ini":
        pytester.makeini("[pytest]\nisolate_github = off")
    if why == "not GitHub":
        step.set(ACTIONS="false")
    done = step.run(*(["--isolate-github=off"] if why == "option" else []), nested=why == "below a test")
    done.result.assert_outcomes(passed=1, failed=2)
    assert commands(done) == []
    assert not step.summary.exists()


@pytest.mark.parametrize("how", ["in a test", "in a sandbox"])
def test_pytest_that_a_test_runs_says_nothing(step: Step, pytester: pytest.Pytester, how: str):
    (pytester.path / "inner").mkdir()
    (pytester.path / "inner/test_inner.py").write_text(SUITE)
    marker = "@pytest.mark.isolate" if how == "in a sandbox" else ""
    pytester.makepyfile(
        test_it=f"""
        import pytest, subprocess, sys
        {marker}
        def test_runs_pytest():
            done = subprocess.run([sys.executable, "-m", "pytest", "-p", "pytest_isolate.plugin", "inner"], capture_output=True, text=True)
            assert " failed" in done.stdout
            assert "\\n::" not in done.stdout
        """
    )
    done = step.run("test_it.py")
    done.result.assert_outcomes(passed=1)
    assert commands(done) == []
    assert step.summary.exists() == (how == "in a sandbox")


def test_github_can_be_forced(step: Step):
    step.set(ACTIONS="")
    assert len(commands(step.run("--isolate-github=on", nested=True))) == 2


def test_run_without_an_isolated_test_says_and_loads_nothing(step: Step, pytester: pytest.Pytester):
    pytester.makepyfile(test_it="def test(): pass")
    pytester.makeconftest("""
        import sys
        def pytest_unconfigure():
            print("loaded", [name for name in sys.modules if name.startswith("pytest_isolate.report")])
        """)
    done = step.run()
    assert commands(done) == []
    assert "loaded []" in done.output
    assert not step.summary.exists()


def test_summary_that_cannot_be_written_is_said_and_fails_nothing(step: Step, pytester: pytest.Pytester):
    pytester.makepyfile(test_it="import pytest\n@pytest.mark.isolate\ndef test(): pass")
    step.set(STEP_SUMMARY="/proc/none/summary")
    done = step.run()
    assert done.result.ret == 0
    done.result.stdout.fnmatch_lines(
        ["isolate: the step's summary /proc/none/summary could not be written: No such file or directory"]
    )


def test_choice_that_does_not_exist_is_refused(step: Step):
    done = step.run("--isolate-github=yes")
    assert done.result.ret == pytest.ExitCode.USAGE_ERROR
    done.result.stderr.fnmatch_lines(["*--isolate-github: 'yes' is not accepted; accepted: auto, on, off"])


# --- OpenMetrics ---


@pytest.mark.parametrize("how", ["alone", "xdist"])
def test_metrics_have_the_figures_of_each_test(step: Step, how: str):
    done = step.run("--isolate-metrics=out/metrics.txt", "--isolate-github=off", how=how)
    text = (step.directory / "out/metrics.txt").read_text()
    found = samples(text)
    assert found["isolate_tests", (("outcome", "failed"),)] == 1
    assert found["isolate_problems", (("kind", "OOM"),)] == 1
    for name, of in (("test_too_big", "test_it.py::test_too_big"), ("TestThings::test_leaves_something",) * 2):
        nodeid = of if of.startswith("test_it") else f"test_it.py::{of}"
        properties = done.of(name, "teardown").properties
        for figure in ("cpu_seconds", "memory_peak_bytes", "wall_seconds"):
            given = found[f"isolate_test_{figure}", (("test", nodeid),)]
            assert given == pytest.approx(properties[f"isolate.{figure}"], rel=0.006)
    total = sum(value for (name, _), value in found.items() if name == "isolate_test_cpu_seconds")
    assert found["isolate_run_cpu_seconds", ()] == pytest.approx(total, rel=0.02)
    assert len(gitlab(text)) == len(found)


def test_metrics_path_that_cannot_be_written_is_an_error_before_any_test(step: Step):
    done = step.run("--isolate-metrics=/proc/none/m.txt")
    assert done.result.ret == pytest.ExitCode.USAGE_ERROR
    done.result.stderr.fnmatch_lines(["*--isolate-metrics: /proc/none/m.txt can't be written: No such file*"])
    assert done.reports == []


def test_metrics_ini_key_is_relative_to_the_file(step: Step, pytester: pytest.Pytester):
    pytester.makeini("[pytest]\nisolate_metrics = reports/metrics.txt\nisolate_github = off")
    step.run()
    assert samples(Path(pytester.path, "reports/metrics.txt").read_text())
    assert os.listdir(pytester.path / "reports") == ["metrics.txt"]
