"""The doctor's report for people: a line per capability, what to type where one lacks, and which spec keys work now.

As `terminal`, it makes lines of spans; `painted` turns one into text with ANSI colours for a stream that isn't pytest's. A
remedy stands on one line, however long: what is to be copied is broken by the terminal, not by us.
"""

from __future__ import annotations

import sys
from typing import Final

from pytest_isolate.probe.capability import Capability, KeyState, Report
from pytest_isolate.report.lines import Line, Style, clip, plain
from pytest_isolate.report.width import pad, printable, width_of, wrap

__all__ = ["painted", "render_doctor"]

_STYLES: Final = {"works": ("green",), "weaker": ("yellow", "bold"), "missing": ("red", "bold")}
_NOW: Final = {"works": "yes", "weaker": "weaker", "missing": "no"}
_ANSI: Final = {"bold": "1", "red": "31", "green": "32", "yellow": "33", "light": "2"}
_STATE: Final = 9
_NARROWEST: Final = 24
"""Cells that a text gets at least, beside its column or below it."""


def render_doctor(report: Report, style: Style) -> list[Line]:
    """The whole report."""
    sections = [
        _head(report, style),
        _capabilities(report, style),
        _keys(report.keys, style),
        _places(report, style),
        _verdict(report, style),
    ]
    lines: list[Line] = []
    for section in filter(None, sections):
        lines += [(), *section] if lines else section
    return [clip(line, sys.maxsize, "") for line in lines]


def _head(report: Report, style: Style) -> list[Line]:
    machine = report.machine
    user = "root" if machine["uid"] == 0 else f"user {machine['uid']}"
    kernel = f"Linux {machine['kernel']}"
    about = ", ".join(filter(None, (kernel, machine["distribution"], user, *(place.name for place in report.places))))
    title = f"pytest-isolate-sandbox {report.version}"
    return [((title, ("bold",)),), *(((text, ()),) for text in wrap(printable(about, style.encoding), style.width))]


def _capabilities(report: Report, style: Style) -> list[Line]:
    names = max(width_of(capability.name) for capability in report.capabilities)
    told: dict[str, str] = {}
    lines: list[Line] = []
    for capability in report.capabilities:
        lines += _capability(capability, names, told, style)
    return lines


def _capability(capability: Capability, names: int, told: dict[str, str], style: Style) -> list[Line]:
    """One line where it works; else what was answered, and the remedy once, however many need it."""
    head: Line = (
        (pad(capability.state, _STATE), _STYLES[capability.state]),
        (pad(capability.name, names), ("bold",) if capability.state != "works" else ()),
    )
    lines = _beside(head, capability.why, style, ("light",) if capability.state == "works" else ())
    if capability.remedy:
        first = told.setdefault(capability.remedy, capability.name)
        lines.append(_remedy(capability.remedy if first == capability.name else f"as for {first}", style))
    return lines


def _remedy(text: str, style: Style) -> Line:
    return ((" " * _STATE, ()), ("remedy: ", ("bold",)), (printable(text, style.encoding), ()))


def _beside(head: Line, text: str, style: Style, styles: tuple[str, ...] = ()) -> list[Line]:
    """`text` to the right of `head`, below it where the terminal is narrow."""
    if not text:
        return [(*head[:-1], (head[-1][0].rstrip(), head[-1][1]))]
    text = printable(text, style.encoding)
    column = width_of(plain(head)) + 2
    if style.width - column < _NARROWEST:
        below: list[Line] = [(("    ", ()), (piece, styles)) for piece in wrap(text, style.width - 4)]
        return [head, *below] if plain(head).strip() else below
    first, *rest = wrap(text, style.width - column)
    return [(*head, ("  ", ()), (first, styles)), *(((" " * column, ()), (piece, styles)) for piece in rest)]


def _keys(keys: tuple[KeyState, ...], style: Style) -> list[Line]:
    names = max((width_of(key.name) for key in keys), default=0)
    names = max(names, len("spec key"))
    lines: list[Line] = [((f"{pad('spec key', names)}  works now", ("bold",)),)]
    for key in keys:
        head: Line = ((pad(key.name, names), ()), ("  ", ()), (pad(_NOW[key.state], len("weaker")), _STYLES[key.state]))
        lines += _beside(head, key.why, style)
    return lines


def _places(report: Report, style: Style) -> list[Line]:
    return [
        line for place in report.places if place.advice
        for line in _beside(((place.name, ("bold",)),), place.advice, style)
    ]  # fmt: skip


def _verdict(report: Report, style: Style) -> list[Line]:
    sandbox = report["sandbox"]
    if report.ready:
        return [(("a bare @pytest.mark.isolate works", ("bold", "green")),)]
    text = "no test can be isolated: a bare @pytest.mark.isolate fails"
    lines: list[Line] = [((piece, ("bold", "red")),) for piece in wrap(text, style.width)]
    if sandbox.remedy:
        lines.append(_remedy(sandbox.remedy, style))
    return lines


def painted(line: Line, *, colour: bool) -> str:
    """A line as text, with ANSI escape sequences if `colour`."""
    if not colour:
        return plain(line)
    return "".join(f"\033[{';'.join(_ANSI[name] for name in styles)}m{text}\033[0m" if styles else text for text, styles in line)
