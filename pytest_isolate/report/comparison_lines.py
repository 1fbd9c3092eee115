"""A comparison with a baseline as lines of the terminal section: what is beyond its limit, what grew most, and what can't be told."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from pytest_isolate.model.figures import FIGURES
from pytest_isolate.model.units import counted
from pytest_isolate.report.baseline import is_name
from pytest_isolate.report.comparison import Change, Comparison
from pytest_isolate.report.lines import Line, Style, clip
from pytest_isolate.report.spread import FEWEST
from pytest_isolate.report.width import cut_middle, pad, printable, width_of, wrap

__all__ = ["render_comparison"]

_GRAVEST: Final = {
    "exceeded": "", "grown": "grown", "unclear": "unclear", "shrunk": "shrunk", "same": "same", "new": "new", "gone": "not run",
}  # fmt: skip
"""What is said of a test, and the words for it."""

_NARROWEST: Final = 24
"""Cells that a node id gets at least, beside its figures or below them."""


def render_comparison(comparison: Comparison, style: Style) -> list[Line]:
    """The block, without an empty line before it."""
    lines = _heading(comparison, style)
    if style.verbosity >= 0 or comparison.fails:
        lines += _table(_rows(comparison, style), style)
    lines += _remarks(comparison, style)
    return [clip(line, style.width, style.ellipsis) for line in lines]


def _heading(comparison: Comparison, style: Style) -> list[Line]:
    baseline = comparison.baseline
    day = time.strftime("%Y-%m-%d", time.localtime(baseline.created))
    where = ", ".join(filter(None, (baseline.commit[:10], day)))
    head = f"compared with {baseline.name} ({where}):".split(" ")
    counts = _counts(comparison)
    text = " ".join([*head, *(f"{count}," for count in counts[:-1]), *counts[-1:]])
    styles = ("red", "bold") if comparison.fails else ("bold",)
    return [((piece, styles),) for piece in wrap(printable(text, style.encoding), style.width)]


def _counts(comparison: Comparison) -> list[str]:
    """Each test once, by the gravest that can be said of one of its figures."""
    found = dict.fromkeys(_GRAVEST, 0)
    for gravest in comparison.gravest().values():
        found[gravest] += 1
    beyond = found.pop("exceeded")
    parts = [f"{counted(beyond, 'test')} beyond {'its' if beyond == 1 else 'their'} limit"] if beyond else []
    parts += [f"{number} {_GRAVEST[name]}" for name, number in found.items() if number]
    if comparison.failed:
        parts.append(f"{len(comparison.failed)} failed")
    return parts or ["no test in common"]


def _rows(comparison: Comparison, style: Style) -> list[Change]:
    """All that are beyond their limit, or may be; of the others those that grew most."""
    others = comparison.grown if style.verbosity >= 0 else []
    return [*comparison.exceeded, *comparison.perhaps, *others[: style.top or None]]


def _table(changes: Sequence[Change], style: Style) -> list[Line]:
    if not changes:
        return []
    limits = any(change.limit for change in changes)
    headings = ["change", "noise", *(["limit"] if limits else []), "figure", "before", "after"]
    cells = [_cells(change, limits=limits) for change in changes]
    widths = [max(width_of(row[column]) for row in (headings, *cells)) for column in range(len(headings))]
    text = headings.index("figure")

    def laid(row: Sequence[str]) -> str:
        return "  ".join(pad(cell, widths[column], right=column != text) for column, cell in enumerate(row))

    used = sum(widths) + 2 * len(widths)
    beside = style.width - used >= _NARROWEST
    lines: list[Line] = [((laid(headings) + ("  test" if beside else ""), ("light",)),)]
    for change, row in zip(changes, cells, strict=True):
        name = printable(change.nodeid, style.encoding)
        styles = ("red",) if change.exceeded else ("yellow",)
        figures: Line = ((laid(row), styles),)
        if beside:
            lines.append((*figures, (f"  {cut_middle(name, style.width - used, style.ellipsis)}", ())))
        else:
            lines += [((cut_middle(name, style.width, style.ellipsis), ("bold",)),), figures]
    return lines


def _cells(change: Change, *, limits: bool) -> list[str]:
    figure = FIGURES[change.figure]
    shown = ["-" if value is None else figure.show(value) for value in (change.before, change.after)]
    limit = [change.limit.text if change.limit else ""] if limits else []
    noise = "?" if change.noise is None else _percent(change.noise)
    return ["from 0" if change.change is None else f"{change.change * 100:+.1f}%", noise, *limit, change.figure, *shown]


def _percent(share: float) -> str:
    return f"{share * 100:.1f}%"


def _remarks(comparison: Comparison, style: Style) -> list[Line]:
    lines: list[Line] = []
    for nodeid, figure in comparison.unmeasured:
        lines += _labelled("not measured", f"{figure} of {nodeid}, which has a limit", style, ("red",))
    if comparison.unlike:
        facts = "; ".join(f"{fact} {before or 'unknown'}, here {after or 'unknown'}" for fact, before, after in comparison.unlike)
        judged = f": {', '.join(comparison.unjudged)} not judged" if comparison.unjudged else ""
        lines += _labelled("unlike", f"the baseline is of another machine ({facts}){judged}", style, ("yellow",))
    if comparison.too_few():
        runs = f"{FEWEST} runs of a test, of the baseline's and of this run's, tell growth from noise (--isolate-repeat={FEWEST})"
        lines += _labelled("unclear", f"at least {runs}", style, ("yellow",))
    elif comparison.perhaps:
        lines += _labelled(
            "unclear", "growth beyond a limit that may be noise: a greater --isolate-repeat tells", style, ("yellow",)
        )
    if comparison.exceeded:
        name = comparison.baseline.name if is_name(comparison.baseline.name) else "NAME"
        advice = f"find what made the tests grow; where it is meant to be, record a new baseline: --isolate-save={name}"
        lines += _labelled("to do", advice, style, ("red",))
    return lines


def _labelled(label: str, text: str, style: Style, styles: tuple[str, ...]) -> list[Line]:
    head = f"{label}: "
    indent = " " * (len(head) if style.width >= 40 else 2)
    first, *rest = wrap(printable(text, style.encoding), style.width - len(head))
    more = wrap(" ".join(rest), style.width - len(indent)) if rest else []
    return [((head, styles), (first, ())), *(((indent + piece, ()),) for piece in more)]
