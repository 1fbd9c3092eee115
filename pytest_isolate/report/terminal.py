"""The terminal section: records in, lines out. No pytest, no colour codes, no stream.

Problems come first, each with a status word, node id and sentence as in nextest; then the heaviest tests as
a table with bars of use against cap; then what was weakened, notes, totals, and what the sandboxes themselves
cost. A line is a tuple of spans, text with the names of its styles, so that the caller's terminal writer
decides on colour. An unknown figure is ``-``. No line is wider than `Style.width` cells.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pytest_isolate.model.units import counted, format_duration, format_size
from pytest_isolate.report.lines import Line, Style, clip, plain
from pytest_isolate.report.record import Problem, Run, TestRecord, percentile
from pytest_isolate.report.table import table
from pytest_isolate.report.width import cut_middle, pad, printable, width_of, wrap, wrap_items

__all__ = ["Line", "Style", "plain", "render", "title"]

_REPORTED: Final = 20
"""Problems that failed no test beyond this many are only counted, without ``-v``."""

_SENTENCE: Final = 3
"""Lines of one problem's sentence, without ``-v``; the failure itself has all of it."""


def title(run: Run) -> tuple[str, tuple[str, ...]]:
    """The section's heading and its styles."""
    problems = run.problems()
    tests = counted(len(run.tests), "test")
    if not problems:
        return f"isolate: {tests}", ()
    colour = "red" if any(problem.failed for _test, problem in problems) else "yellow"
    return f"isolate: {counted(len(problems), 'problem')} in {tests}", (colour,)


def render(run: Run, style: Style) -> list[Line]:
    """The section's lines, without its heading; none where no test was isolated."""
    if not run.tests:
        return []
    lines = _problems(run, style)
    if style.verbosity < 0:
        lines += _labelled("isolate", _listed(_brief(run)), style)
    else:
        blocks = [lines, table(run, style), _closing(run, style)]
        lines = []
        for block in filter(None, blocks):
            lines += [(), *block] if lines else block
    return [clip(line, style.width, style.ellipsis) for line in lines]


def _problems(run: Run, style: Style) -> list[Line]:
    problems = run.problems()
    failing = sum(problem.failed for _test, problem in problems)
    hidden = 0 if style.verbosity > 0 else max(0, len(problems) - failing - _REPORTED)
    shown = problems[: len(problems) - hidden]
    kinds = max((width_of(_kind(problem, style)) for _test, problem in shown), default=0)
    brief = all(_fits(test, problem, kinds, style) for test, problem in shown)
    lines = [line for test, problem in shown for line in _problem(test, problem, kinds, style, brief=brief)]
    if hidden:
        lines.append(((f"{'':{kinds}} and {hidden} more that failed no test (-v lists them)", ("light",)),))
    return lines


def _kind(problem: Problem, style: Style) -> str:
    return printable(problem.kind, style.encoding).upper()


def _sentence(problem: Problem, style: Style) -> str:
    return printable(problem.brief, style.encoding)


def _fits(test: TestRecord, problem: Problem, kinds: int, style: Style) -> bool:
    name = printable(test.nodeid, style.encoding)
    return kinds + 1 + width_of(name) + 2 + width_of(_sentence(problem, style)) <= style.width


def _problem(test: TestRecord, problem: Problem, kinds: int, style: Style, *, brief: bool) -> list[Line]:
    """One line if `brief`, else the node id's line and the sentence below it."""
    kind = pad(_kind(problem, style), kinds, right=True), ("bold", "red" if problem.failed else "yellow")
    name = printable(test.nodeid, style.encoding)
    sentence = _sentence(problem, style)
    if brief:
        return [(kind, (f" {name}", ("bold",)), (f"  {sentence}", ()))]
    lines: list[Line] = [(kind, (f" {cut_middle(name, style.width - kinds - 1, style.ellipsis)}", ("bold",)))]
    indent = " " * min(kinds + 3, max(0, style.width - 20))
    pieces = wrap(sentence, style.width - len(indent))
    if style.verbosity <= 0 and len(pieces) > _SENTENCE:
        pieces = [*pieces[: _SENTENCE - 1], " ".join(pieces[_SENTENCE - 1 :])]
    return lines + [((indent + piece, ()),) for piece in pieces]


def _closing(run: Run, style: Style) -> list[Line]:
    lines: list[Line] = []
    for text, tests in run.weakened().items():
        lines += _labelled("weakened", f"{counted(tests, 'test')}: {text}".split(), style, ("yellow",))
    for note in run.notes:
        lines += _labelled("note", note.split(), style, ("yellow",))
    lines += _labelled("total", _listed(_totals(run)), style, ("bold",))
    if cost := _cost(run):
        lines += _labelled("overhead", _listed(cost), style, ("bold",))
    return lines


def _labelled(label: str, items: Iterable[str], style: Style, styles: tuple[str, ...] = ()) -> list[Line]:
    """`items` wrapped to the right of their label, below it where the terminal is narrow."""
    head = pad(f"{label}:", 10 if style.verbosity >= 0 else len(label) + 2)
    narrow = style.width < 40
    indent = " " * (2 if narrow else len(head))
    pieces = wrap_items((printable(item, style.encoding) for item in items), style.width - len(indent))
    if narrow:
        return [((head, styles),), *(((indent + piece, ()),) for piece in pieces)]
    first: Line = ((head, styles), (pieces[0], ()))
    return [first, *(((indent + piece, ()),) for piece in pieces[1:])]


def _listed(parts: list[str]) -> list[str]:
    return [f"{part}," for part in parts[:-1]] + parts[-1:]


def _totals(run: Run) -> list[str]:
    """Sums over all attempts, and the peaks, of what is known; no I/O needs no mention."""
    parts = [counted(len(run.tests), "isolated test")]
    if (times := max((len(test.repetitions) for test in run.tests), default=0)) > 1:
        parts.append(f"last of {times} runs each")
    if reruns := len(run.attempts) - len(run.tests):
        parts.append(counted(reruns, "rerun"))
    if (cpu := run.total("cpu_seconds")) is not None:
        parts.append(f"cpu {format_duration(cpu)}")
    if (memory := run.highest("memory_peak_bytes")) is not None:
        parts.append(f"memory peak {format_size(memory)}")
    if (pids := run.highest("pids_peak")) is not None:
        parts.append(f"pids peak {pids:.0f}")
    for name, label in (("io_read_bytes", "read"), ("io_write_bytes", "written"), ("disk_written_bytes", "disk")):
        if size := run.total(name):
            parts.append(f"{label} {format_size(size)}")
    if (wall := run.total("wall_seconds")) is not None:
        parts.append(f"wall {format_duration(wall)}")
    return parts


def _cost(run: Run) -> list[str]:
    costs = run.setup_costs()
    if not costs:
        return []
    median, p95 = (format_duration(percentile(costs, share)) for share in (0.5, 0.95))
    return [f"median {median}", f"p95 {p95} a test", f"{format_duration(sum(costs))} in all"]


def _brief(run: Run) -> list[str]:
    """What one line of 80 cells can say."""
    parts = [counted(len(run.tests), "test")]
    if (cpu := run.total("cpu_seconds")) is not None:
        parts.append(f"cpu {format_duration(cpu)}")
    if (memory := run.highest("memory_peak_bytes")) is not None:
        parts.append(f"memory peak {format_size(memory)}")
    if costs := run.setup_costs():
        median, p95 = (format_duration(percentile(costs, share)) for share in (0.5, 0.95))
        parts.append(f"overhead {median} (p95 {p95})")
    return parts
