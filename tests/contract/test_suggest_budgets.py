"""`python -m pytest_isolate budgets suggest`, on files of real runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from pytest_isolate.model.figures import FIGURES
from tests.support.capabilities import requires

ROOT = Path(__file__).parents[2]

SUITE = """
import pytest
pytestmark = pytest.mark.isolate

@pytest.mark.parametrize("mib", [20, 22, 24, 200])
def test_takes(mib):
    data = bytearray(mib << 20)
    data[::4096] = b"x" * len(data[::4096])

def test_fails():
    bytearray(500 << 20)
    assert 0
"""


def suggest(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest_isolate", "budgets", "suggest", *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=directory, env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def recorded(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a run, and a baseline of it."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makepyfile(test_it=SUITE)
    result = pytester.runpytest_subprocess("-p", "pytest_isolate.plugin", "--isolate-save=main", "--isolate-json=run.json")
    result.assert_outcomes(passed=4, failed=1)
    return pytester.path


@requires("cgroup-memory", "sandbox")
def test_limits_hold_for_the_run_that_they_were_made_from(recorded: Path) -> None:
    document = json.loads((recorded / "run.json").read_text())
    for runs in ((), ("main",), ("run.json",), (".isolate/baselines/main.json", "run.json")):
        done = suggest(recorded, *runs)
        assert (done.returncode, done.stderr) == (0, "")
        budgets = tomllib.loads(done.stdout)["tool"]["pytest-isolate"]["budgets"]
        assert list(budgets) == ["test_it.py", "test_it.py::test_takes[200]"]
        for test in document["tests"]:
            if test["outcome"] == "passed":
                limits = budgets["test_it.py"] | budgets.get(test["nodeid"], {})
                for name, limit in limits.items():
                    used = test["usage"].get(FIGURES[name].attribute)
                    assert used is None or used <= FIGURES[name].parse(limit)
    assert budgets["test_it.py::test_takes[200]"]["memory"].endswith("MiB")


@requires("cgroup-memory", "sandbox")
def test_written_into_the_file_of_the_project(recorded: Path) -> None:
    path = recorded / "pyproject.toml"
    done = suggest(recorded, "--write")
    assert done.returncode == 2
    assert f"there is no {path}" in done.stderr
    path.write_text("# a comment\n[project]\nname = 'x'  # mine\n")
    done = suggest(recorded, "--write", "--figures=memory", "--headroom=50%", "--by=test")
    assert (done.returncode, done.stdout) == (0, "")
    assert f"4 budgets for 4 tests added to {path}" in done.stderr
    assert path.read_text().startswith("# a comment\n[project]\nname = 'x'  # mine\n\n# From main, with headroom of 50%")
    before = path.read_text()
    done = suggest(recorded, "--write")
    assert done.returncode == 2
    assert "there is a [tool.pytest-isolate.budgets] already" in done.stderr
    assert path.read_text() == before


@pytest.mark.parametrize(
    "arguments,said",
    [
        (
            [],
            "there is no baseline in *.isolate/baselines; accepted: files of --isolate-json, or baselines (--isolate-save=NAME)",
        ),
        (["main"], "there is no *main.json; accepted: a file of --isolate-json, or a baseline in *: none"),
        (["broken.json"], "broken.json: it is no JSON"),
        (["empty.json"], "empty.json: no test passed there with a figure of cpu, memory, pids"),
        (["empty.json", "--headroom=2"], "--headroom: '2' is not accepted; accepted: percent that are added: 30%"),
        (["empty.json", "--figures=speed"], "--figures: no figure 'speed'; figures: cpu"),
    ],
)
def test_what_cannot_be_meant_is_said(tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "broken.json").write_text('{"version": 1')
    (tmp_path / "empty.json").write_text(
        json.dumps({"version": 1, "tests": [], "run": {"started": 0, "commit": ""}, "machine": {}})
    )
    done = suggest(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    pytest.LineMatcher(done.stderr.splitlines()).fnmatch_lines([f"pytest-isolate: *{said}*"])
