"""`report.github`: commands as the runner reads them, Markdown as a renderer of GitHub's kind does."""

from __future__ import annotations

import os
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from pytest_isolate.report.github import LIMIT, commands, summary


def problem(kind: str = "OOM", text: str = "used all", *, failed: bool = True) -> dict[str, Any]:
    return {"kind": kind, "text": text, "failed": failed}


def record(
    nodeid: str, *problems: dict[str, Any], file: str = "tests/test_a.py", line: int = 7, **usage: float
) -> dict[str, Any]:
    return {
        "nodeid": nodeid,
        "outcome": "passed",
        "usage": usage,
        "problems": list(problems),
        "file": file,
        "line": line,
        "spec": {},
    }


def document(*tests: dict[str, Any], rootdir: str = "/work/project", **more: Any) -> dict[str, Any]:
    totals = {"tests": len(tests), "attempts": len(tests), "outcomes": {"passed": len(tests)}, "usage": {"cpu_seconds": 1.5}}
    return {"run": {"rootdir": rootdir}, "tests": list(tests), "totals": totals, "weakened": {}, "notes": [], **more}


def read(line: str) -> tuple[str, dict[str, str], str]:
    """A command as the runner reads it: `ActionCommand.TryParseV2` of actions/runner."""
    assert line.startswith("::")
    assert "\n" not in line
    assert "\r" not in line
    end = line.index("::", 2)
    name, _, given = line[2:end].partition(" ")
    pairs = (part.split("=", 1) for part in given.split(",") if part)

    def data(text: str) -> str:
        return text.replace("%0D", "\r").replace("%0A", "\n").replace("%25", "%")

    def value(text: str) -> str:
        return text.replace("%0D", "\r").replace("%0A", "\n").replace("%3A", ":").replace("%2C", ",").replace("%25", "%")

    return name, {key: value(text) for key, text in pairs}, data(line[end + 2 :])


def test_problem_that_failed_its_test_is_an_error_and_another_a_warning():
    lines = commands(
        document(record("a::one", problem("LEAK", "sleep left", failed=False)), record("a::two", problem())), "/work"
    )
    assert [read(line) for line in lines] == [
        ("error", {"file": "project/tests/test_a.py", "line": "7", "title": "OOM: a::two"}, "used all"),
        ("warning", {"file": "project/tests/test_a.py", "line": "7", "title": "LEAK: a::one"}, "sleep left"),
    ]


def test_problem_of_an_attempt_that_was_run_again_failed_no_test():
    first = {**record("a::one", problem()), "attempt": 1, "outcome": "rerun"}
    last = {**record("a::one"), "attempt": 2}
    found = [read(line) for line in commands(document(first, last), "")]
    assert [(name, data) for name, _, data in found] == [("warning", "used all (attempt 1, which was run again)")]
    text = summary(document(first, last), 10).decode()
    assert "| OOM |" in text
    assert "**OOM**" not in text


@pytest.mark.parametrize("text", ["50% of 1\n2\r\n3", "a::b,c=d:e", "%0A is not a line", "::error::x", "ä 测试"])
def test_whatever_is_said_arrives(text: str):
    (line,) = commands(document(record(f"t[{text}]", problem(text, text), file=f"dir,1:{text.strip()}.py")), "/work/project")
    name, properties, data = read(line)
    assert (name, data) == ("error", text)
    assert properties["title"] == f"{text}: t[{text}]"
    assert properties["file"] == f"dir,1:{text.strip()}.py"


def test_ten_of_each_kind_are_shown_and_the_last_counts_the_rest():
    tests = [record(f"t{number}", problem(), problem("LEAK", failed=False)) for number in range(14)]
    found = [read(line) for line in commands(document(*tests), "/work")]
    errors = [data for name, _, data in found if name == "error"]
    assert len(errors) == 10
    assert errors[-1] == "5 more problems that failed; the log has all of them"
    warnings = [data for name, _, data in found if name == "warning"]
    assert len(warnings) == 10
    assert warnings[-1] == "5 more problems that failed no test; the log has all of them"
    exactly = [record(f"t{number}", problem()) for number in range(10)]
    assert [data for _, _, data in map(read, commands(document(*exactly), "/work"))] == ["used all"] * 10


def test_place_is_relative_to_the_checkout_and_left_out_outside_of_it(tmp_path: Path):
    (tmp_path / "checkout/sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "checkout")
    inside = document(record("a", problem()), rootdir=str(tmp_path / "link/sub"))
    ((_, properties, _),) = map(read, commands(inside, str(tmp_path / "checkout")))
    assert properties["file"] == os.path.join("sub", "tests/test_a.py")
    for workspace in (str(tmp_path / "other"), ""):
        ((_, properties, _),) = map(read, commands(inside, workspace))
        assert set(properties) == {"title"}


def test_unknown_line_names_the_file_alone():
    ((_, properties, _),) = map(read, commands(document(record("a", problem(), line=0)), "/work"))
    assert set(properties) == {"file", "title"}


# --- the summary ---


class Cells(HTMLParser):
    """Rows of the tables in a page, as text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.rows[-1][-1] += data


def rendered(text: bytes) -> str:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text.decode())


def cells(text: bytes) -> Cells:
    return Cells(rendered(text))


def test_summary_has_totals_problems_and_the_heaviest_tests():
    made = document(
        record("t::light", cpu_seconds=0.1, wall_seconds=1.0),
        record("t::heavy", problem(text="OOM: used 64.0 of 64 MiB\nmore"), problem("LEAK", "sleep", failed=False), cpu_seconds=1.4, memory_peak_bytes=64 << 20),
        weakened={"memory needs cgroup-memory": 1}, notes=["2 threads were alive"],
    )  # fmt: skip
    page = rendered(summary(made, 5))
    assert "<h3>pytest-isolate: 2 isolated tests</h3>" in page
    assert "<p>2 passed; cpu 1.50 s</p>" in page
    assert "<strong>OOM</strong>" in page
    assert "<strong>LEAK</strong>" not in page
    assert "<li>weakened: 1 test: memory needs cgroup-memory</li>" in page
    assert "<li>2 threads were alive</li>" in page
    assert Cells(page).rows == [
        ["", "test", "problem"],
        ["OOM", "t::heavy", "used 64.0 of 64 MiB"],
        ["LEAK", "t::heavy", "sleep"],
        ["test", "outcome", "CPU time, user and system", "memory peak", "time inside the sandbox"],
        ["t::heavy", "passed", "1.40 s", "64.0 MiB", ""],
        ["t::light", "passed", "100 ms", "", "1.00 s"],
    ]


def comparison(*tests: dict[str, Any], unmeasured: tuple[dict[str, str], ...] = ()) -> dict[str, Any]:
    baseline = {"name": "main", "path": "/x/main.json", "commit": "0123456789abcdef", "created": 0.0, "machine": {}}
    return {
        "baseline": baseline,
        "tests": list(tests),
        "unlike": [],
        "unjudged": [],
        "unmeasured": list(unmeasured),
        "failed": [],
    }


GROWN = {
    "nodeid": "t::a",
    "figure": "memory",
    "before": 100 << 20,
    "after": 130 << 20,
    "change": 0.3,
    "noise": 0.01,
    "verdict": "grown",
    "limit": "10%",
    "exceeded": True,
}
MORE = {"nodeid": "t::b", "figure": "cpu", "before": 1.0, "after": 1.5, "change": 0.5, "noise": 0.1, "verdict": "grown"}
FROM_NOTHING = {"nodeid": "t::b", "figure": "net_tx", "before": 0, "after": 5, "change": None, "noise": None, "verdict": "grown"}
SAME = {"nodeid": "t::b", "figure": "wall", "before": 1.0, "after": 1.0, "change": 0.0, "noise": 0.1, "verdict": "same"}


def test_growth_beyond_its_limit_is_an_error_at_the_test():
    unmeasured = ({"nodeid": "t::gone", "figure": "cpu"},)
    made = document(record("t::a"), record("t::b"), comparison=comparison(GROWN, MORE, SAME, unmeasured=unmeasured))
    assert [read(line) for line in commands(made, "/work/project")] == [
        ("error", {"file": "tests/test_a.py", "line": "7", "title": "grown: t::a"}, "memory 130.0 MiB, 100.0 MiB in the baseline: +30.0 %, 10% is allowed"),
        ("error", {"title": "grown: t::gone"}, "cpu has a limit, and it could not be measured"),
    ]  # fmt: skip


def test_summary_has_the_comparison_with_what_is_beyond_its_limit_first():
    made = document(record("t::a", cpu_seconds=1.0), comparison=comparison(SAME, MORE, FROM_NOTHING, GROWN))
    text = summary(made, 5)
    assert "Compared with <code>main</code> (0123456789): 1 figure beyond the limit, 2 more grown." in rendered(text)
    assert cells(text).rows[:4] == [
        ["", "test", "figure", "before", "after", "change", "allowed"],
        ["GROWN", "t::a", "memory", "100.0 MiB", "130.0 MiB", "+30.0 %", "10%"],
        ["grown", "t::b", "net_tx", "0 B", "5 B", "from 0", ""],
        ["grown", "t::b", "cpu", "1.00 s", "1.50 s", "+50.0 %", ""],
    ]
    nothing = summary(document(record("t::a"), comparison=comparison(SAME)), 5)
    assert "0 figures beyond the limit, 0 more grown." in rendered(nothing)


def test_summary_has_the_budgets_that_are_used_up_most():
    def judged(figure: str, used: float | None, allowed: float) -> dict[str, Any]:
        return {"figure": figure, "used": used, "allowed": allowed, "verdict": "within", "place": "x"}

    first = {**record("t::a"), "budget": [judged("cpu", 0.5, 1.0), judged("memory", 90 << 20, 64 << 20), judged("pids", None, 4)]}
    second = {**record("t::b"), "budget": [judged("processes_left", 1, 0), judged("disk", 0, 0)]}
    assert cells(summary(document(first, second), 4)).rows[:5] == [
        ["nearest to their budget", "figure", "used", "budget", "share"],
        ["t::b", "processes_left", "1", "0", ""],
        ["t::a", "memory", "90.0 MiB", "64.0 MiB", "141 %"],
        ["t::a", "cpu", "500 ms", "1.00 s", "50 %"],
        ["t::b", "disk", "0 B", "0 B", ""],
    ]


def test_top_limits_the_table():
    tests = [record(f"t{number}", cpu_seconds=number) for number in range(9)]
    rows = cells(summary(document(*tests), 2)).rows
    assert [row[0] for row in rows] == ["heaviest 2 of 9", "t8", "t7"]
    assert len(cells(summary(document(*tests), 0)).rows) == 10


@pytest.mark.parametrize(
    "name",
    [
        "a|b",
        "`c`",
        "<script>alert(1)</script>",
        "**b** _i_ ~~s~~",
        "[x](http://y)",
        "![x](y)",
        "a\\|b",
        "&lt;",
        "# h",
        "- x",
        "https://e.org",
    ],
)
def test_whatever_a_test_is_called_stands_in_its_cell(name: str):
    found = cells(summary(document(record(name, problem(text=f"said {name}"), cpu_seconds=1.0)), 5))
    assert found.rows[1] == ["OOM", name, f"said {name}"]
    assert found.rows[3][0] == name
    assert found.tags <= {"h3", "p", "table", "thead", "tbody", "tr", "th", "td", "code", "strong"}


def test_summary_stays_below_the_limit_and_counts_what_has_no_room():
    tests = [record(f"test_{'ä' * 100}[{number}]", problem(text="x" * 200), cpu_seconds=1.0) for number in range(5000)]
    text = summary(document(*tests), 0)
    assert LIMIT - 2000 < len(text) <= LIMIT
    last = text.decode().rstrip("\n").splitlines()[-1]
    shown = sum(line.startswith("| **OOM**") for line in text.decode().splitlines())
    assert 0 < shown < 5000
    left_out = int(last.split()[0])
    assert last == f"{left_out} more lines have no room here; the log has them."
    assert shown + left_out == 5000 + 5000 + 2  # problems, tests and the head of their table


def test_summary_that_has_no_room_at_all_is_empty():
    assert summary(document(record("a")), 5, 10) == b""


def test_later_attempt_is_the_row():
    rows = cells(summary(document(record("a", cpu_seconds=9.0), record("a", cpu_seconds=1.0)), 5)).rows
    assert [row[2] for row in rows[1:]] == ["1.00 s"]
