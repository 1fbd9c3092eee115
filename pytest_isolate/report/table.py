"""The table of the heaviest tests: which tests, which columns, how wide.

A column's unit stands in its heading and its figures share their decimals, so that sizes compare at a glance
as in ``top``. Where the terminal is too narrow, columns go in a fixed order rather than node ids becoming
unreadable; with ``-v`` the figures move to a line of their own first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from pytest_isolate.model.usage import Usage
from pytest_isolate.report.lines import Line, Span, Style
from pytest_isolate.report.record import Run, TestRecord
from pytest_isolate.report.width import cut_end, cut_middle, pad, printable, width_of

__all__ = ["heaviest", "table"]

_MIB: Final = 1024 * 1024
_GAP: Final = 2
_BAR: Final = 8

_FLOORS: Final = {
    "cpu_seconds": 0.1,
    "memory_peak_bytes": 16 * _MIB,
    "io_bytes": _MIB,
    "disk_written_bytes": _MIB,
}
"""What weighs on a machine, and below which highest figure of the run it is noise."""


def _io_bytes(usage: Usage) -> int | None:
    known = [value for value in (usage.io_read_bytes, usage.io_write_bytes) if value is not None]
    return sum(known) if known else None


def _figure(usage: Usage, name: str) -> float | None:
    value: float | None = _io_bytes(usage) if name == "io_bytes" else getattr(usage, name)
    return value


def _share(used: float | None, cap: float | None) -> float | None:
    return None if used is None or not cap else used / cap


def _cpu_share(test: TestRecord) -> float | None:
    cap, wall = test.spec.cpu, test.usage.wall_seconds
    return _share(test.usage.cpu_seconds, None if cap is None or wall is None else cap * wall)


def _memory_share(test: TestRecord) -> float | None:
    return _share(test.usage.memory_peak_bytes, test.spec.memory)


def _disk_share(test: TestRecord) -> float | None:
    return _share(test.usage.disk_written_bytes, test.spec.disk)


def heaviest(run: Run, top: int) -> list[TestRecord]:
    """The `top` tests (0: all) that used most of anything, next to its highest use in the run or to their own cap.

    So the run's highest CPU time, memory peak, I/O and disk are each among the first, and so is a small test
    that fills its cap. Where a machine knows none of these, wall time decides.
    """
    tests = run.tests
    most = {
        name: max(floor, *(value for test in tests if (value := _figure(test.usage, name)) is not None), 0)
        for name, floor in _FLOORS.items()
    }

    def weight(test: TestRecord) -> tuple[float, float, float]:
        shares = [(_figure(test.usage, name) or 0) / highest for name, highest in most.items()]
        shares += [share(test) or 0 for share in (_memory_share, _disk_share)]
        return max(shares), sum(shares), test.usage.wall_seconds or 0

    return sorted(tests, key=weight, reverse=True)[: top or None]


@dataclass(frozen=True)
class _Column:
    """A column of figures, or with `cap` of bars.

    Attributes:
        heading: with the unit.
        value: the figure in that unit; for a bar the share of the cap in use.
        decimals: of every figure.
        order: the columns of the lowest order are dropped first.
        verbosity: least verbosity that shows it, and `most` the highest.
        always: shown also where all figures are zero or unknown.
        cap: the cap as it is written after a bar; None for a test without one.
        limit: the cap as it is written after a figure.
    """

    heading: str
    value: Callable[[TestRecord], float | None]
    decimals: int
    order: int
    verbosity: int = 0
    most: int = 9
    always: bool = False
    cap: Callable[[TestRecord], str | None] | None = None
    limit: Callable[[TestRecord], int | None] | None = None


def _scaled(name: str, unit: float = 1) -> Callable[[TestRecord], float | None]:
    def value(test: TestRecord) -> float | None:
        figure = _figure(test.usage, name)
        return None if figure is None else figure / unit

    return value


def _mib_cap(key: str) -> Callable[[TestRecord], str | None]:
    def cap(test: TestRecord) -> str | None:
        size = getattr(test.spec, key)
        return None if size is None else f"{size / _MIB:.4g}"

    return cap


_COLUMNS: Final = (
    _Column("cpu s", _scaled("cpu_seconds"), 2, order=10, always=True),
    _Column("of cap", _cpu_share, 0, order=1,
            cap=lambda test: None if test.spec.cpu is None else f"{test.spec.cpu * 100:.4g}%"),
    _Column("throttled s", _scaled("cpu_throttled_seconds"), 2, order=4, verbosity=1),
    _Column("memory MiB", _scaled("memory_peak_bytes", _MIB), 1, order=11, always=True),
    _Column("of cap", _memory_share, 0, order=8, cap=_mib_cap("memory")),
    _Column("pids", _scaled("pids_peak"), 0, order=7, limit=lambda test: test.spec.pids),
    _Column("io MiB", _scaled("io_bytes", _MIB), 1, order=5, most=0),
    _Column("read MiB", _scaled("io_read_bytes", _MIB), 1, order=5, verbosity=1),
    _Column("written MiB", _scaled("io_write_bytes", _MIB), 1, order=5, verbosity=1),
    _Column("disk MiB", _scaled("disk_written_bytes", _MIB), 1, order=6),
    _Column("of cap", _disk_share, 0, order=2, cap=_mib_cap("disk")),
    _Column("wall s", _scaled("wall_seconds"), 2, order=9, always=True),
    _Column("setup ms", _scaled("setup_seconds", 1e-3), 1, order=3, verbosity=1),
)  # fmt: skip


@dataclass(frozen=True)
class _Laid:
    """A column with its cells for the tests that are shown; `telling` where one of them is known and not zero."""

    column: _Column
    cells: Sequence[Line]
    width: int
    telling: bool

    @property
    def heading(self) -> Span:
        return pad(self.column.heading, self.width, right=self.column.cap is None), ("light",)


def _lay(column: _Column, tests: Sequence[TestRecord], run: Run, style: Style) -> _Laid:
    if column.cap is None:
        highest = _outstanding(column, run.tests)
        cells = [_figure_cell(column, test, highest) for test in tests]
    else:
        cells = [_bar_cell(column.value(test), column.cap(test), style) for test in tests]
    width = max(width_of(column.heading), *(_width(cell) for cell in cells))
    spaces = [((" " * (width - _width(cell)), ()),) for cell in cells]
    padded: Sequence[Line] = [
        (*space, *cell) if column.cap is None else (*cell, *space) for space, cell in zip(spaces, cells, strict=True)
    ]
    return _Laid(column, padded, width, any(map(column.value, tests)))


def _width(line: Line) -> int:
    return sum(width_of(text) for text, _styles in line)


def _figure_cell(column: _Column, test: TestRecord, highest: float | None) -> Line:
    value = column.value(test)
    if value is None:
        return (("-", ("light",)),)
    text = f"{value:.{column.decimals}f}"
    if value > 0 and not float(text):
        text = "<" + text[:-1] + "1"
    limit = column.limit(test) if column.limit else None
    return (text, ("bold",) if value == highest else ()), (f"/{limit}" if limit is not None else "", ("light",))


def _bar_cell(share: float | None, cap: str | None, style: Style) -> Line:
    if cap is None:
        return ()
    if share is None:
        return ("-".ljust(_BAR), ("light",)), (f" {cap}", ("light",))
    full, empty = style.bar(share, _BAR)
    colour = "red" if share >= 0.9 else "yellow" if share >= 0.7 else "green"
    return (full, (colour,)), (empty, ("light",)), (f" {cap}", ("light",))


def _columns(run: Run, tests: Sequence[TestRecord], style: Style) -> list[_Laid]:
    """The columns that this run has something to say in, before the width is looked at."""
    laid = []
    for column in _COLUMNS:
        if not column.verbosity <= max(style.verbosity, 0) <= column.most:
            continue
        if column.cap:
            if all(column.cap(test) is None for test in tests):
                continue
        elif style.verbosity <= 0 and not (column.always or any(column.value(test) for test in tests)):
            continue
        laid.append(_lay(column, tests, run, style))
    return laid


def _outstanding(column: _Column, tests: Sequence[TestRecord]) -> float | None:
    """The run's highest figure, where one test alone has it."""
    values = sorted((value for test in tests if (value := column.value(test)) is not None), reverse=True)
    return values[0] if len(values) > 1 and values[0] > values[1] else None


def _fit(laid: list[_Laid], room: int) -> list[_Laid]:
    """`laid` without the columns that have to go to need at most `room` cells: first those that say nothing."""
    laid = list(laid)
    while laid and sum(column.width + _GAP for column in laid) > room:
        laid.remove(min(laid, key=lambda each: (each.telling, each.column.order)))
    return laid


def table(run: Run, style: Style) -> list[Line]:
    """Heading and one row for each of the heaviest tests; with ``-v`` two, where one is too narrow."""
    tests = heaviest(run, style.top)
    if not tests:
        return []
    names = [printable(test.nodeid, style.encoding) for test in tests]
    caption = _caption(len(tests), len(run.tests))
    longest = max(width_of(caption), *(width_of(name) for name in names))
    all_columns = _columns(run, tests, style)
    spare = style.width - min(longest, max(style.width * 2 // 5, 16))
    laid = _fit(all_columns, spare)
    if style.verbosity > 0 and len(laid) < len(all_columns):
        return _two_lines(tests, names, caption, _fit(all_columns, style.width), style)
    column_of_names = min(longest, style.width - sum(column.width + _GAP for column in laid))
    caption = pad(cut_end(caption, column_of_names, style.ellipsis), column_of_names)
    rows: list[Line] = [_row((caption, ("bold",)), [(column.heading,) for column in laid])]
    for index, (test, name) in enumerate(zip(tests, names, strict=True)):
        cut = pad(cut_middle(name, column_of_names, style.ellipsis), column_of_names)
        rows.append(_row((cut, _mood(test)), [column.cells[index] for column in laid]))
    return rows


def _two_lines(tests: Sequence[TestRecord], names: Sequence[str], caption: str, laid: list[_Laid], style: Style) -> list[Line]:
    rows: list[Line] = [((caption, ("bold",)),), _row(("", ()), [(column.heading,) for column in laid])]
    for index, (test, name) in enumerate(zip(tests, names, strict=True)):
        rows.append(((cut_middle(name, style.width, style.ellipsis), _mood(test)),))
        rows.append(_row(("", ()), [column.cells[index] for column in laid]))
    return rows


def _caption(shown: int, known: int) -> str:
    if known == 1:
        return "1 isolated test"
    return f"{known} isolated tests" if shown == known else f"heaviest {shown} of {known}"


def _mood(test: TestRecord) -> tuple[str, ...]:
    if any(problem.failed for problem in test.problems):
        return ("red",)
    return ("yellow",) if test.problems else ()


def _row(name: Span, cells: Sequence[Line]) -> Line:
    line = [name]
    for cell in cells:
        line += [(" " * _GAP, ()), *cell]
    return tuple(line)
