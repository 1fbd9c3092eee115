"""pytest-html's table gets a column for CPU, memory peak, wall time and problems of isolated tests.

Imported where pytest-html writes a report. All through its documented hooks. The header is asked for before anything is
collected, so the columns are there from the start, empty for plain tests, and taken out of sight at the end of a run without
an isolated one. pytest-html sorts a column by the text of its cells, as text: so numbers are padded with spaces, which HTML
doesn't show.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any, Final, NamedTuple

import pytest

__all__ = ["register"]


class _Column(NamedTuple):
    name: str
    heading: str
    figure: str
    scale: float
    form: str


_COLUMNS: Final = (
    _Column("isolateCpu", "CPU s", "cpu_seconds", 1, "12.3f"),
    _Column("isolateMemory", "Memory MiB", "memory_peak_bytes", 1 << 20, "12.1f"),
    _Column("isolateWall", "Wall s", "wall_seconds", 1, "12.3f"),
)
_PROBLEMS: Final = "isolateProblems"
_HEADINGS: Final = (*((column.name, column.heading) for column in _COLUMNS), (_PROBLEMS, "Problems"))


def register(config: pytest.Config) -> None:
    """To be called once in `pytest_configure` of the process that reports, if pytest-html has something to write there."""
    config.pluginmanager.register(_Columns(), "isolate-html-columns")


class _Columns:
    def __init__(self) -> None:
        self._records: dict[tuple[str, str, int], Mapping[str, Any]] = {}

    @pytest.hookimpl(tryfirst=True)  # pytest-html makes a test's rows when it is told of the last report
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown" and isinstance(record := getattr(report, "isolate", None), dict):
            self._records[_key(report)] = record

    # Last, so that both hooks find what a conftest file made of header and row.

    @pytest.hookimpl(optionalhook=True, trylast=True)
    def pytest_html_results_table_header(self, cells: list[str]) -> None:
        cells += [f'<th class="sortable col-{name}" data-column-type="{name}">{text}</th>' for name, text in _HEADINGS]

    @pytest.hookimpl(optionalhook=True, trylast=True)
    def pytest_html_results_table_row(self, report: Any, cells: list[str]) -> None:
        if not cells:  # how a conftest file takes a row out
            return
        record = self._records.get(_key(report), {})
        usage = record.get("usage", {})
        for column in _COLUMNS:
            value = usage.get(column.figure)
            cells.append(_cell(column.name, "" if value is None else format(value / column.scale, column.form)))
        cells.append(_cell(_PROBLEMS, _problems(record) if record else ""))

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_results_summary(self, prefix: list[str]) -> None:
        if not self._records:
            prefix.append(f"<style>{', '.join(f'.col-{name}' for name, _ in _HEADINGS)} {{ display: none }}</style>")


def _key(report: Any) -> tuple[str, str, int]:
    """One attempt; pytest-rerunfailures numbers them."""
    return str(getattr(report, "worker_id", "")), report.nodeid, getattr(report, "rerun", 0)


def _problems(record: Mapping[str, Any]) -> str:
    from pytest_isolate.report.record import Problem  # not in a run of plain tests

    return "; ".join(f"{problem.kind.upper()} {problem.brief}" for problem in map(Problem.from_json, record.get("problems", ())))


def _cell(name: str, text: str) -> str:
    return f'<td class="col-{name}">{escape(text)}</td>'
