"""`plugin.terminal`: header line and section, with records that a conftest puts on reports as the protocol does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

CONFTEST = """
import json, os, pytest

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item, call):
    report = yield
    figures = dict(getattr(getattr(item, "function", None), "figures", {}))
    if call.when == "teardown" and figures:
        report.isolate = {
            "nodeid": item.nodeid, "spec": figures.pop("spec", {}), "problems": figures.pop("problems", []),
            "weakened": figures.pop("weakened", []), "notes": figures.pop("notes", []), "usage": figures,
        }
    return report
"""

SUITE = """
def figures(**values):
    def mark(function):
        function.figures = values
        return function
    return mark

@figures(cpu_seconds=0.5, memory_peak_bytes=64 << 20, wall_seconds=0.6, setup_seconds=0.003, spec={"memory": 64 << 20},
         problems=[{"kind": "oom", "text": "OOM: used 64.0 of 64 MiB, killed python3 (pid 7)", "failed": True}])
def test_big(): pass

@figures(cpu_seconds=0.1, memory_peak_bytes=3 << 20, wall_seconds=0.2, setup_seconds=0.004,
         problems=[{"kind": "leak", "text": "1 process left behind: sleep (pid 9)", "failed": False}], notes=["2 threads were alive"])
def test_leaks(): pass

@figures(cpu_seconds=0.2, memory_peak_bytes=4 << 20, wall_seconds=0.2, setup_seconds=0.005, notes=["2 threads were alive"],
         weakened=["memory needs cgroup-memory: none here"])
def test_weak(): pass

def test_plain(): pass
"""


Pytest = Callable[..., pytest.RunResult]


@pytest.fixture
def terminal(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Pytest:
    """Runs pytest with the plugin, on a terminal of 100 columns without colour unless a test says otherwise."""
    for name in ("NO_COLOR", "FORCE_COLOR", "PY_COLORS", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
    )
    return lambda *args: pytester.runpytest_subprocess("-p", "pytest_isolate.plugin", *args, timeout=120)


@pytest.fixture
def suite(pytester: pytest.Pytester, terminal: Pytest) -> Pytest:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_suite=SUITE)
    return terminal


def section(result: pytest.RunResult) -> list[str]:
    """The section's lines, its heading first."""
    lines = result.outlines
    start = next((number for number, line in enumerate(lines) if re.match(r"=+ isolate: ", line)), None)
    if start is None:
        return []
    rest = [number for number, line in enumerate(lines) if number > start and line.startswith("===")]
    found = [line.rstrip() for line in lines[start : rest[0]]]
    return found[:-1] if not found[-1] else found


def test_section_has_problems_then_heaviest_tests_then_totals(suite: Pytest) -> None:
    result = suite()
    result.assert_outcomes(passed=4)
    assert section(result)[1:] == r"""
 OOM test_suite.py::test_big  used 64.0 of 64 MiB, killed python3 (pid 7)
LEAK test_suite.py::test_leaks  1 process left behind: sleep (pid 9)

3 isolated tests           cpu s  memory MiB  of cap       wall s
test_suite.py::test_big     0.50        64.0  ████████ 64    0.60
test_suite.py::test_weak    0.20         4.0                 0.20
test_suite.py::test_leaks   0.10         3.0                 0.20

weakened: 1 test: memory needs cgroup-memory: none here
note:     2 threads were alive
total:    3 isolated tests, cpu 800 ms, memory peak 64.0 MiB, wall 1.00 s
overhead: median 4 ms, p95 5 ms a test, 12 ms in all
""".strip("\n").splitlines()  # fmt: skip
    assert section(result)[0].strip("= ") == "isolate: 2 problems in 3 tests"


def test_xdist_shows_the_same_section_on_the_controller(suite: Pytest) -> None:
    def in_any_order(args: list[str]) -> list[str]:
        return sorted(line.strip() for line in section(suite(*args)))

    assert in_any_order(["-p", "xdist", "-n", "2"]) == in_any_order([])


def test_each_worker_of_dist_each_counts(suite: Pytest) -> None:
    result = suite("-p", "xdist", "--dist=each", "--tx=2*popen")
    assert section(result)[0].strip("= ") == "isolate: 4 problems in 6 tests"


def test_run_without_isolated_tests_has_no_section(pytester: pytest.Pytester, terminal: Pytest) -> None:
    pytester.makepyfile("def test_plain(): pass")
    result = terminal()
    assert section(result) == []
    assert result.outlines[-1].strip("= ").startswith("1 passed")


def test_foreign_attribute_of_that_name_is_ignored(pytester: pytest.Pytester, terminal: Pytest) -> None:
    pytester.makeconftest("""
        import pytest

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport():
            report = yield
            report.isolate = {"by": "another plugin"}
            return report
        """)
    pytester.makepyfile("def test_plain(): pass")
    result = terminal()
    result.assert_outcomes(passed=1)
    assert section(result) == []


def test_quiet_shows_problems_and_one_line(suite: Pytest) -> None:
    result = suite("-q")
    text = result.stdout.str()
    assert "test_suite.py::test_big  used 64.0 of 64 MiB" in text
    assert "isolate: 3 tests, cpu 800 ms, memory peak 64.0 MiB, overhead 4 ms (p95 5 ms)" in text
    assert "of cap" not in text


def test_quiet_without_problems_is_one_line_without_heading(suite: Pytest) -> None:
    result = suite("-q", "-k", "weak or plain")
    assert [line for line in result.outlines if "isolate" in line] == [
        "isolate: 1 test, cpu 200 ms, memory peak 4.0 MiB, overhead 5 ms (p95 5 ms)"
    ]


def test_verbose_shows_all_columns(suite: Pytest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    text = "\n".join(section(suite("-v")))
    assert "throttled s" in text
    assert "setup ms" in text


def test_top_limits_the_table(suite: Pytest) -> None:
    assert any("heaviest 1 of 3" in line for line in section(suite("--isolate-top=1")))
    assert any("3 isolated tests  " in line for line in section(suite("--isolate-top=0")))


@pytest.mark.parametrize("width", [40, 80, 120])
def test_no_line_is_wider_than_columns(suite: Pytest, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = section(suite())
    assert lines
    assert max(map(len, lines)) <= width


def test_colour_only_where_pytest_colours(suite: Pytest, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[31m\x1b[1m OOM\x1b[0m" in suite("--color=yes").stdout.str().replace("\x1b[1m\x1b[31m", "\x1b[31m\x1b[1m")
    assert "\x1b" not in suite("--color=no").stdout.str()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in suite().stdout.str()


def test_ascii_stream_gets_ascii_bars(suite: Pytest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    result = suite()
    assert any("64.0  ######## 64" in line for line in section(result))


def test_rerun_shows_its_last_attempt_once(pytester: pytest.Pytester, suite: Pytest) -> None:
    pytester.makeconftest(
        CONFTEST
        + """
from _pytest.runner import runtestprotocol

def pytest_runtest_protocol(item, nextitem):
    "As pytest-rerunfailures does, which not every environment of ours has."
    for outcome in ("rerun", "failed"):
        for report in runtestprotocol(item, nextitem=nextitem, log=False):
            if report.failed:
                report.outcome = outcome
            item.ihook.pytest_runtest_logreport(report=report)
    return True
"""
    )
    pytester.makepyfile(
        test_suite="""
        attempts = []
        def test_flaky():
            attempts.append(1)
            first = len(attempts) == 1
            test_flaky.figures = {"cpu_seconds": float(len(attempts)), "problems": [{"kind": "oom", "text": "used all"}] if first else []}
            assert not first
        """
    )
    result = suite()
    result.assert_outcomes(passed=1)
    text = "\n".join(section(result))
    assert "OOM test_suite.py::test_flaky  used all (attempt 1 of 2)" in text
    assert re.search(r"test_flaky +2\.00 ", text)
    assert "total:    1 isolated test, 1 rerun, cpu 3.00 s" in text


def test_note_from_a_worker_reaches_the_controller(pytester: pytest.Pytester, suite: Pytest) -> None:
    pytester.makeconftest(
        CONFTEST
        + """
def pytest_collection_finish(session):
    from pytest_isolate.plugin.collected import add_note
    if session.items:
        add_note(session.config, "preload numpy")
        add_note(session.config, "preload numpy")
"""
    )
    for args in ([], ["-p", "xdist", "-n", "2"]):
        assert section(suite(*args)).count("note:     preload numpy") == 1


def header(result: pytest.RunResult) -> list[str]:
    return [line for line in result.outlines if line.startswith("isolate: ")]


def test_header_says_that_marked_tests_are_isolated(terminal: Pytest) -> None:
    assert header(terminal("--collect-only")) == ["isolate: marked tests"]


def test_header_says_that_isolation_is_off(terminal: Pytest) -> None:
    assert header(terminal("--no-isolate", "--collect-only")) == ["isolate: off (--no-isolate)"]


def test_header_under_isolate_all_names_mode_namespaces_and_controllers(terminal: Pytest) -> None:
    (line,) = header(terminal("--isolate-all", "--collect-only"))
    assert re.fullmatch(
        r"isolate: all tests; (root|rootless); namespaces user,pid,mnt,net,uts,ipc,cgroup; "
        r"(cgroup (v1|hybrid|v2): [a-z,]+|no cgroups: no caps, few figures)",
        line,
    )


def test_header_of_unused_plugin_imports_nothing_of_the_kernel() -> None:
    code = """
import json, sys, time
from types import SimpleNamespace
import pytest_isolate.plugin.terminal as terminal
before = {name for name in sys.modules if name.startswith("pytest_isolate.kernel")}
start = time.perf_counter()
line = terminal.header(SimpleNamespace(no_isolate=False, isolate_all=False, cgroup=None))
seconds = time.perf_counter() - start
print(json.dumps([line, seconds, sorted({name for name in sys.modules if name.startswith("pytest_isolate.kernel")} - before)]))
"""
    line, seconds, imported = json.loads(subprocess.check_output([sys.executable, "-c", code]))
    assert line == "isolate: marked tests"
    assert seconds < 0.001
    assert imported == []
