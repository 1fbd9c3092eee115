"""Plugins that write reports have the figures of isolated tests without configuration: the same values that pytest has."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from tests.support.beside import beside
from tests.support.capabilities import requires
from tests.support.isolated_runs import Run, run

pytestmark = requires("root", "cgroup-memory", "plugin-pytest-xdist")

SUITE = """
import subprocess
import pytest

@pytest.mark.isolate(memory="64MiB")
def test_too_big():
    b"x" * (100 << 20)

@pytest.mark.isolate
@pytest.mark.parametrize("size", [1, 20])
def test_sizes(size):
    assert len(b"x" * (size << 20))

@pytest.mark.isolate
def test_leaves_something():
    subprocess.run(["sh", "-c", "sleep 60 & echo '<b>&'"])

def test_plain():
    pass
"""
ISOLATED = ("test_too_big", "test_sizes[1]", "test_sizes[20]", "test_leaves_something")

Reported = Callable[..., Run]


@pytest.fixture(params=["alone", "xdist"])
def how(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def reported(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str) -> Reported:
    """Runs the suite with warnings as errors."""

    def start(*args: str, tests: str = SUITE) -> Run:
        pytester.makepyfile(test_it=tests)
        first = ("-p", "xdist", "-n", "2") if how == "xdist" else ()
        return run(pytester, monkeypatch, *first, "-W", "error", "-p", "no:cacheprovider", *args)

    return start


def figures(done: Run, name: str) -> dict[str, float]:
    properties = done.of(name, "teardown").properties
    found = {key: value for key, value in properties.items() if key.startswith("isolate.")}
    assert {"isolate.cpu_seconds", "isolate.memory_peak_bytes", "isolate.wall_seconds"} <= set(found)
    return found


def test_junit_xml_has_them_as_properties(reported: Reported, pytester: pytest.Pytester):
    done = reported("--junitxml=out.xml")
    done.result.assert_outcomes(passed=4, failed=1)
    cases = {case.get("name"): case for case in ET.parse(pytester.path / "out.xml").iter("testcase")}
    assert set(cases) == {*ISOLATED, "test_plain"}
    for name in ISOLATED:
        assert {each.get("name"): float(each.get("value", "")) for each in cases[name].iter("property")} == figures(done, name)
    assert list(cases["test_plain"].iter("property")) == []


@beside("pytest-reportlog", "Figures, spec and problems are in its lines, under pytest-xdist too.")
def test_reportlog_has_figures_and_record(reported: Reported, pytester: pytest.Pytester):
    done = reported("-p", "pytest_reportlog.plugin", "--report-log=log.jsonl")
    done.result.assert_outcomes(passed=4, failed=1)
    lines = [json.loads(line) for line in (pytester.path / "log.jsonl").read_text().splitlines()]
    last = {
        line["nodeid"].partition("::")[2]: line
        for line in lines
        if line["$report_type"] == "TestReport" and line["when"] == "teardown"
    }
    assert set(last) == {*ISOLATED, "test_plain"}
    for name in ISOLATED:
        assert dict(last[name]["user_properties"]) == figures(done, name)
    assert last["test_too_big"]["isolate"]["spec"] == {"memory": 64 << 20}
    assert [problem["kind"] for problem in last["test_leaves_something"]["isolate"]["problems"]] == ["LEAK"]
    assert last["test_plain"]["user_properties"] == []


@beside("pytest-json-report", "Each test's `user_properties` have the figures, under pytest-xdist too.")
def test_json_report_has_figures(reported: Reported, pytester: pytest.Pytester):
    done = reported(
        "-p", "pytest_jsonreport.plugin", "-p", "pytest_metadata.plugin", "--json-report", "--json-report-file=report.json"
    )
    done.result.assert_outcomes(passed=4, failed=1)
    tests = {test["nodeid"].partition("::")[2]: test for test in json.loads((pytester.path / "report.json").read_text())["tests"]}
    assert set(tests) == {*ISOLATED, "test_plain"}
    for name in ISOLATED:
        pairs = [pair for each in tests[name]["user_properties"] for pair in each.items()]
        assert len(pairs) == len(dict(pairs))
        assert dict(pairs) == figures(done, name)
    assert "user_properties" not in tests["test_plain"]
    assert tests["test_too_big"]["outcome"] == "failed"


# --- pytest-html ---

HTML = ("-p", "pytest_html.plugin", "-p", "pytest_metadata.plugin", "--html=report.html")


def page(directory: Path) -> tuple[str, dict[str, list[dict[str, Any]]]]:
    """The file, and the rows in it by test."""
    text = (directory / "report.html").read_text(encoding="utf-8")
    found = re.search(r'data-jsonblob="([^"]*)"', text)
    assert found
    return text, {nodeid.partition("::")[2]: rows for nodeid, rows in json.loads(html.unescape(found[1]))["tests"].items()}


def cells(row: dict[str, Any]) -> dict[str, str]:
    """What a row shows, by column."""
    found = [re.fullmatch(r'<td class="col-(\w+)">(.*)</td>', cell) for cell in row["resultsTableRow"]]
    return {cell[1]: html.unescape(cell[2]) for cell in found if cell}


@beside(
    "pytest-html",
    "Sortable columns have each test's CPU time, memory peak, wall time and problems, under pytest-xdist and for reruns too.",
)
def test_html_has_columns(reported: Reported, pytester: pytest.Pytester):
    done = reported(*HTML)
    done.result.assert_outcomes(passed=4, failed=1)
    text, tests = page(pytester.path)
    headings = re.findall(r'<th class="sortable col-(\w+)" data-column-type="\1">(.*?)</th>', text)
    assert headings == [
        ("isolateCpu", "CPU s"),
        ("isolateMemory", "Memory MiB"),
        ("isolateWall", "Wall s"),
        ("isolateProblems", "Problems"),
    ]
    assert "display: none }</style>" not in text
    for name in ISOLATED:
        shown = cells(tests[name][0])
        given = figures(done, name)
        assert float(shown["isolateCpu"]) == pytest.approx(given["isolate.cpu_seconds"], abs=0.0006)
        assert float(shown["isolateMemory"]) == pytest.approx(given["isolate.memory_peak_bytes"] / (1 << 20), abs=0.06)
        assert float(shown["isolateWall"]) == pytest.approx(given["isolate.wall_seconds"], abs=0.0006)
    assert re.fullmatch(r"OOM used 6\d\.\d of 64 MiB, killed .*", cells(tests["test_too_big"][0])["isolateProblems"])
    assert re.fullmatch(
        r"LEAK 1 process left behind: sleep \(pid \d+\)", cells(tests["test_leaves_something"][0])["isolateProblems"]
    )
    plain = cells(tests["test_plain"][0])
    assert [plain[name] for name, _ in headings] == ["", "", "", ""]


def test_html_sorts_the_columns_by_their_numbers(reported: Reported, pytester: pytest.Pytester):
    """pytest-html compares, as text, what it keeps of each cell under the column's name."""
    reported(
        *HTML,
        "--isolate-memory=512MiB",
        tests=SUITE.replace("(100 <<", "(5 <<").replace("[1, 20]", "[1, 3, 20, 200]").replace('memory="64MiB"', ""),
    )
    _, tests = page(pytester.path)
    rows = [row for found in tests.values() for row in found]
    for column in ("isolateMemory", "isolateCpu", "isolateWall"):
        in_order = [float(row[column]) for row in sorted(rows, key=lambda row: row[column]) if row[column].strip()]
        assert len(in_order) == 6
        assert in_order == sorted(in_order)
    assert max(float(row["isolateMemory"] or 0) for row in rows) > 200


def test_html_of_a_run_without_isolated_tests_hides_the_columns(reported: Reported, pytester: pytest.Pytester):
    reported(*HTML, tests="def test(): pass").result.assert_outcomes(passed=1)
    text, _ = page(pytester.path)
    assert "<style>.col-isolateCpu, .col-isolateMemory, .col-isolateWall, .col-isolateProblems { display: none }</style>" in text
    reported(*HTML, "--no-isolate").result.assert_outcomes(passed=5)
    assert "isolateCpu" not in page(pytester.path)[0]


def test_html_columns_follow_what_a_conftest_makes_of_the_table(reported: Reported, pytester: pytest.Pytester):
    pytester.makeconftest("""
        def pytest_html_results_table_header(cells):
            cells.insert(1, "<th>Mine</th>")
            cells.pop()
        def pytest_html_results_table_row(report, cells):
            if "plain" in report.nodeid:
                del cells[:]
                return
            cells.insert(1, '<td class="col-mine">m</td>')
            cells.pop()
        """)
    reported(*HTML).result.assert_outcomes(passed=4, failed=1)
    text, tests = page(pytester.path)
    assert set(tests) == set(ISOLATED)
    head = re.findall(r"<th\b.*?>(.*?)</th>", text)[:8]
    assert head == ["Result", "Mine", "Test", "Duration", "CPU s", "Memory MiB", "Wall s", "Problems"]
    assert list(cells(tests["test_sizes[1]"][0])) == [
        "result", "mine", "testId", "duration", "isolateCpu", "isolateMemory", "isolateWall", "isolateProblems",
    ]  # fmt: skip


@beside("pytest-rerunfailures", "pytest-html shows the figures of each attempt.")
def test_html_has_the_figures_of_each_attempt(reported: Reported, pytester: pytest.Pytester):
    done = reported(
        *HTML, "-p", "rerunfailures", "--reruns=1",
        tests="""
        import os, pytest
        @pytest.mark.isolate(writable=["."])
        def test_second_time():
            b"x" * (0 if os.path.exists("seen") else 60 << 20)
            assert os.path.exists("seen") or os.mkdir("seen")
        """,
    )  # fmt: skip
    done.result.assert_outcomes(passed=1)
    _, tests = page(pytester.path)
    sizes = {cells(row)["result"]: float(cells(row)["isolateMemory"]) for row in tests["test_second_time"]}
    assert sizes["Rerun"] > 60 > sizes["Passed"] > 0
