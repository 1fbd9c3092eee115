"""What a breached budget is told in: a first line that stands alone, a table of its figures, and what can be done. No pytest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from pytest_isolate.model.budget import Judged, breached
from pytest_isolate.model.figures import FIGURES
from pytest_isolate.model.units import format_size
from pytest_isolate.model.usage import Usage

__all__ = ["KIND", "TITLE", "limit_for", "sentence", "text"]

KIND: Final = "BUDGET"
TITLE: Final = "isolate: budget"

_HEADROOM: Final = {"size": 1.1, "duration": 1.2, "count": 1.0, "instructions": 1.1}
"""By kind of figure, or by figure: how far above the most that was used a new limit is proposed."""

_DECIMAL: Final = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))

_LOWER: Final = {
    "cpu": "everything inside counts, imports in test bodies and the test's own fixtures too: what many tests need can be imported"
    " at the top of the module, or named in isolate_preload, and is then paid for once, outside",
    "instructions": "everything inside counts, as for cpu, but not the kernel's work for it, and the same work is the same number",
    "wall": "waiting counts too, from joining the sandbox to the end of the teardown: wait for what is to happen instead of sleeping,"
    " and set up once, in a wider fixture, what tests share",
    "memory": "files count too, those that the test wrote (the writable layer is a tmpfs) and those that it was the first to read; read"
    " in pieces, and let go of what is no longer needed before more is made",
    "memory_own": "files count too, those that the test wrote (the writable layer is a tmpfs) and those that it was the first to read;"
    " read in pieces, and let go of what is no longer needed before more is made",
    "pids": "threads count as much as processes: smaller pools, and a wait for what has ended",
    "io_read": "what is in the page cache isn't read again; read once, in a wider fixture, what tests share",
    "io_write": "what the test writes below writable= and syncs; the sandbox's own files are in memory",
    "net_rx": "headers and retransmissions count too",
    "net_tx": "headers and retransmissions count too",
    "disk": "what is in the writable layer when the test has ended: a fixture's teardown can remove it; tmp_path isn't part of it",
    "processes_left": "end and wait for what the test starts, in the teardown of the fixture that starts it",
}


def sentence(judged: Iterable[Judged]) -> str:
    """One line on those that are over, or else unmeasured; empty where all are within."""
    judged = list(judged)
    over = breached(judged)
    if not over:
        unknown = [each.figure for each in judged if each.verdict == "unmeasured"]
        return f"budget for {', '.join(unknown)}, and it could not be measured" if unknown else ""
    first, *others = over
    used, allowed = _shown(first)
    also = f"; also over: {', '.join(each.figure for each in others)}" if others else ""
    return f"{first.figure} {used}, budget {allowed}: {_by(first)}{also}"


def text(judged: Sequence[Judged], usage: Usage, history: Mapping[str, Sequence[float]]) -> str:
    """All of it; `sentence` first.

    Args:
        history: by figure, what former runs of the test used, the latest last.
    """
    parts = [sentence(judged), _table(judged)]
    if any(each.figure in ("memory", "memory_own") for each in judged):
        parts.append(_of_memory(usage))
    over = breached(judged)
    former = [
        f"  {each.figure}: {', '.join(FIGURES[each.figure].show(value) for value in history[each.figure])}"
        for each in over
        if history.get(each.figure)
    ]
    parts.append("\n".join(["former runs, the latest last:", *former]) if former else "no former run is known")
    parts.append("\n".join(line for each in over for line in _change(each, history.get(each.figure, ()))))
    return "\n\n".join(part for part in parts if part)


def _change(judged: Judged, history: Sequence[float]) -> list[str]:
    used = judged.used or 0.0
    figure = judged.figure
    proposed = limit_for(figure, max([used, *history]))
    where = f" in {judged.place}" if judged.place else ""
    return [f'to allow it: "{figure}": {proposed}{where}', f"to lower {figure}: {_LOWER[figure]}"]


def limit_for(figure: str, most: float) -> str:
    """A limit that `most`, the highest value seen, keeps with some headroom, as it is typed in a budget."""
    headroom = _HEADROOM.get(figure, _HEADROOM[FIGURES[figure].kind])
    limit = FIGURES[figure].typed(most * headroom)
    return limit if limit.isdigit() else f'"{limit}"'


def _shown(judged: Judged) -> tuple[str, str]:
    show = FIGURES[judged.figure].show
    used = "-" if judged.used is None else show(judged.used)
    return used, _limit(judged)


def _limit(judged: Judged) -> str:
    """As somebody types it: ``64 MiB``, not ``64.0 MiB``, and ``1 MB``, not ``976.6 KiB``."""
    if FIGURES[judged.figure].kind == "size" and judged.allowed % 1024 and not judged.allowed % 1000:
        scale, unit = next((scale, unit) for scale, unit in _DECIMAL if judged.allowed >= scale)
        return f"{judged.allowed / scale:.4g} {unit}"
    shown = FIGURES[judged.figure].show(judged.allowed)
    number, space, unit = shown.partition(" ")
    return f"{number.rstrip('0').rstrip('.')}{space}{unit}" if "." in number else shown


def _by(judged: Judged) -> str:
    """By how much, in words."""
    if judged.used is None:
        return "not measured"
    show = FIGURES[judged.figure].show
    if not judged.allowed:
        return f"{show(judged.used)} over" if judged.used else "nothing"
    if judged.verdict == "within":
        return f"{judged.ratio * 100:.0f} % of it" if judged.ratio >= 0.01 or not judged.used else "less than 1 % of it"
    if judged.ratio >= 10:
        return f"{judged.ratio:,.0f} times as much"
    percent = (judged.ratio - 1) * 100
    return f"{percent:.0f} % over" if percent >= 1 else f"{show(judged.used - judged.allowed)} over"


def _table(judged: Sequence[Judged]) -> str:
    rows = [("figure", "used", "allowed", "by how much", "set in")]
    for each in judged:
        used, allowed = _shown(each)
        rows.append((each.figure, used, allowed, _by(each), each.place))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join([*(f"{cell:{width}}" for cell, width in zip(row, widths, strict=False)), row[4]]).rstrip() for row in rows
    )


def _of_memory(usage: Usage) -> str:
    """Whether pages copied from pytest's own heap count."""
    said = "memory counts pages of pytest's own heap that the test copied by writing to them (a reference count is enough)"
    inherited, peak = usage.memory_inherited_bytes, usage.memory_peak_bytes
    if inherited is None or peak is None or usage.memory_own_bytes is None:
        return f"{said}, memory_own doesn't; how much that was isn't known here"
    share = f"an estimated {format_size(inherited)} of {format_size(peak)}"
    return f"{said}: {share}; a budget for memory_own judges the other {format_size(usage.memory_own_bytes)}"
