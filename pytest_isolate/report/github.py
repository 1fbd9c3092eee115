"""A run's document for GitHub Actions: annotations as workflow commands, and Markdown for the summary of a step.

Commands, their properties, and the limits of a summary: https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands.
How the runner reads a command is in its source, `ActionCommand.TryParseV2` of actions/runner: it undoes ``%25``, ``%0D`` and ``%0A``,
and in properties ``%3A`` and ``%2C``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pytest_isolate.model.budget import Judged
from pytest_isolate.model.figures import FIGURES
from pytest_isolate.model.units import counted
from pytest_isolate.model.usage import Usage
from pytest_isolate.report.record import Problem, Run, TestRecord
from pytest_isolate.report.table import heaviest

__all__ = ["LIMIT", "commands", "summary"]

LIMIT: Final = 1 << 20
"""Bytes of one step's summary; one that is larger isn't shown at all."""

_ANNOTATIONS: Final = 10
"""Of each kind that GitHub shows for one step (https://docs.github.com/en/rest/checks/runs)."""

_COLUMNS: Final = ("cpu", "memory", "wall")
_RESERVE: Final = 200
"""Bytes for the line that says what was left out."""


def commands(document: Mapping[str, Any], workspace: str) -> list[str]:
    """A command for each problem: errors for those that failed a test or the run, warnings for the others.

    Args:
        workspace: the checkout (``GITHUB_WORKSPACE``), which GitHub's paths are relative to.
    """
    lines = []
    for kind, failed in (("error", True), ("warning", False)):
        found = [(test, problem) for test, problem in (*_problems(document), *_growth(document)) if problem["failed"] is failed]
        # The last one that is shown tells how many aren't.
        shown = found if len(found) <= _ANNOTATIONS else found[: _ANNOTATIONS - 1]
        for test, problem in shown:
            properties = {**_place(document, test, workspace), "title": f"{problem['kind']}: {test['nodeid']}"}
            lines.append(_command(kind, properties, problem["text"]))
        if more := len(found) - len(shown):
            text = f"{more} more problems {'that failed' if failed else 'that failed no test'}; the log has all of them"
            lines.append(_command(kind, {"title": "isolate"}, text))
    return lines


def _problems(document: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Each with its test. What made an attempt fail that was followed by another one failed no test."""
    for test in document["tests"]:
        for problem in test["problems"]:
            if test.get("outcome") == "rerun":
                first, *rest = problem["text"].split("\n")
                text = "\n".join([f"{first} (attempt {test['attempt']}, which was run again)", *rest])
                yield test, {**problem, "text": text, "failed": False}
            else:
                yield test, problem


def _growth(document: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """What fails the run in a comparison with a baseline, in the form of problems."""
    comparison = document.get("comparison", {})
    tests = {test["nodeid"]: test for test in document["tests"]}
    for change in comparison.get("tests", ()):
        if change.get("exceeded"):
            figure, before, after = change["figure"], _shown(change, "before"), _shown(change, "after")
            text = f"{figure} {after}, {before} in the baseline: {_percent(change)}, {change['limit']} is allowed"
            yield tests.get(change["nodeid"], {"nodeid": change["nodeid"]}), {"kind": "grown", "text": text, "failed": True}
    for unknown in comparison.get("unmeasured", ()):
        text = f"{unknown['figure']} has a limit, and it could not be measured"
        yield tests.get(unknown["nodeid"], {"nodeid": unknown["nodeid"]}), {"kind": "grown", "text": text, "failed": True}


def _shown(values: Mapping[str, Any], name: str) -> str:
    value = values[name]
    return "-" if value is None else FIGURES[values["figure"]].show(value)


def _percent(change: Mapping[str, Any]) -> str:
    return "from 0" if change["change"] is None else f"{change['change'] * 100:+.1f} %"


def _place(document: Mapping[str, Any], test: Mapping[str, Any], workspace: str) -> dict[str, str]:
    """``file`` and ``line`` of a test, if it lies in the checkout."""
    if not test.get("file") or not workspace:
        return {}
    path = os.path.join(document["run"]["rootdir"], test["file"])
    relative = os.path.relpath(os.path.realpath(path), os.path.realpath(workspace))
    if relative.split(os.sep)[0] == os.pardir:
        return {}
    return {"file": relative, **({"line": str(test["line"])} if test.get("line") else {})}


def _command(name: str, properties: Mapping[str, str], text: str) -> str:
    given = ",".join(f"{key}={_property(value)}" for key, value in properties.items())
    return f"::{name} {given}::{_data(text)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def summary(document: Mapping[str, Any], top: int, limit: int = LIMIT) -> bytes:
    """Markdown in UTF-8: totals, problems, the heaviest tests.

    Args:
        top: how many of them; 0: all.
        limit: bytes; what has no room is counted.
    """
    totals = document["totals"]
    lines = [f"### pytest-isolate: {counted(totals['tests'], 'isolated test')}", "", _totals(document), ""]
    pages = [_problem_rows(document), _changes(document, top), _budgets(document, top), _table(document, top), _notes(document)]
    size = sum(len(_encoded(line)) for line in lines)
    left_out = 0
    for line in (line for page in pages for line in page):
        size += len(_encoded(line))
        if left_out or size > limit - _RESERVE:
            left_out += bool(line)
        else:
            lines.append(line)
    if left_out:
        lines += ["", f"{left_out} more lines have no room here; the log has them."]
    text = b"".join(map(_encoded, lines))
    return text if len(text) <= limit else b""


def _encoded(line: str) -> bytes:
    return f"{line}\n".encode("utf-8", "backslashreplace")


def _totals(document: Mapping[str, Any]) -> str:
    totals = document["totals"]
    usage = Usage.from_json(totals["usage"])
    outcomes = [f"{number} {outcome}" for outcome, number in totals["outcomes"].items()]
    figures = [
        f"{figure.name} {figure.show(value)}"
        for figure in (FIGURES[name] for name in _COLUMNS)
        if (value := figure.of(usage)) is not None
    ]
    return _text("; ".join(filter(None, [", ".join(outcomes), ", ".join(figures)])))


def _problem_rows(document: Mapping[str, Any]) -> list[str]:
    rows = [(test, problem) for failed in (True, False) for test, problem in _problems(document) if problem["failed"] is failed]
    if not rows:
        return []
    lines = ["| | test | problem |", "| --- | --- | --- |"]
    for test, problem in rows:
        kind = _text(problem["kind"].upper())
        word = f"**{kind}**" if problem["failed"] else kind
        lines.append(f"| {word} | {_code(test['nodeid'])} | {_text(Problem.from_json(problem).brief)} |")
    return [*lines, ""]


def _changes(document: Mapping[str, Any], top: int) -> list[str]:
    """A comparison with a baseline: all that is beyond its limit, and of the rest what grew most."""
    if (comparison := document.get("comparison")) is None:
        return []
    beyond = [change for change in comparison["tests"] if change.get("exceeded")]
    grown = [change for change in comparison["tests"] if change["verdict"] == "grown" and not change.get("exceeded")]
    grown.sort(key=lambda change: (change["change"] is None, change["change"] or 0), reverse=True)
    baseline = comparison["baseline"]
    commit = f" ({_text(baseline['commit'][:10])})" if baseline["commit"] else ""
    counts = f"{counted(len(beyond), 'figure')} beyond the limit, {len(grown)} more grown"
    lines = [f"Compared with {_code(baseline['name'])}{commit}: {counts}.", ""]
    if rows := [*beyond, *grown[: top or None]]:
        lines += ["| | test | figure | before | after | change | allowed |", "| --- | --- | --- | ---: | ---: | ---: | ---: |"]
    for change in rows:
        mark = "**GROWN**" if change.get("exceeded") else "grown"
        figures = [_shown(change, "before"), _shown(change, "after"), _percent(change), _text(change.get("limit", ""))]
        lines.append(f"| {mark} | {_code(change['nodeid'])} | {_text(change['figure'])} | {' | '.join(figures)} |")
    return [*lines, ""]


def _budgets(document: Mapping[str, Any], top: int) -> list[str]:
    """Those that are used up most."""
    judged = [(test, budget) for test in document["tests"] for budget in test.get("budget", ()) if budget["used"] is not None]
    judged.sort(key=lambda pair: Judged.from_json(pair[1]).ratio, reverse=True)
    if not judged:
        return []
    lines = ["| nearest to their budget | figure | used | budget | share |", "| --- | --- | ---: | ---: | ---: |"]
    for test, budget in judged[: top or None]:
        share = f"{Judged.from_json(budget).ratio * 100:.0f} %" if budget["allowed"] else ""
        figures = [_shown(budget, "used"), _shown(budget, "allowed"), share]
        lines.append(f"| {_code(test['nodeid'])} | {_text(budget['figure'])} | {' | '.join(figures)} |")
    return [*lines, ""]


def _table(document: Mapping[str, Any], top: int) -> list[str]:
    """The heaviest tests, those that the terminal shows."""
    run = Run(record for test in document["tests"] if (record := TestRecord.from_json(test)) is not None)
    shown = heaviest(run, top)
    if not shown:
        return []
    figures = [FIGURES[name] for name in _COLUMNS]
    heading = f"heaviest {len(shown)} of {len(run.tests)}" if len(shown) < len(run.tests) else "test"
    lines = [
        f"| {heading} | outcome | {' | '.join(figure.meaning for figure in figures)} |",
        "| --- | --- |" + " ---: |" * len(figures),
    ]
    for test in shown:
        cells = ["" if (value := figure.of(test.usage)) is None else figure.show(value) for figure in figures]
        lines.append(f"| {_code(test.nodeid)} | {_text(test.outcome)} | {' | '.join(cells)} |")
    return [*lines, ""]


def _notes(document: Mapping[str, Any]) -> list[str]:
    weakened = [f"weakened: {counted(number, 'test')}: {text}" for text, number in document["weakened"].items()]
    return [f"- {_text(text)}" for text in (*weakened, *document["notes"])]


def _text(text: str) -> str:
    """`text` on one line of Markdown, meaning itself: neither HTML nor mark-up nor the end of a table's cell."""
    return re.sub(r"[\\`*_\[\]#!|<>&~$@]", lambda found: f"&#{ord(found[0])};", " ".join(text.split()))


def _code(text: str) -> str:
    """The same in fixed width; an element, since a code span can't hold a pipe in a table and knows no escape."""
    return f"<code>{_text(text)}</code>"
