"""What a running sandbox uses against its caps: one line for a terminal, a few for a log. Data in, text out.

Of a line that is too long the figures go first, the least telling one before the others; then the middle of the test's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from pytest_isolate.model.spec import Spec
from pytest_isolate.model.units import format_duration, format_size
from pytest_isolate.model.usage import ProcessInfo
from pytest_isolate.report.lines import Line, Span, Style, clip
from pytest_isolate.report.width import cut_middle, printable, width_of

__all__ = ["Running", "block", "line"]

_NEAR: Final = 0.9
"""Of a cap: what is beyond is shown in another colour."""

_LEAST_NAME: Final = 16
"""Cells that a test's name has before a figure is left out."""

_PREFIX: Final = "isolate: "
_MOST_PROCESSES: Final = 10
_MOST_COMMAND: Final = 120


@dataclass(frozen=True, slots=True)
class Running:
    """A sandbox at one moment. A figure that the machine can't give is None.

    Attributes:
        name: the test's node id, or the name of another sandbox.
        spec: its caps.
        phase: the test's; empty for another sandbox.
        seconds: since the test joined it.
        left: seconds until its timeout.
        busy: CPUs in use: lately, or on average.
        cpu_seconds, cpu_throttled_seconds, memory_bytes, tasks: see `kernel.cgroup`.
        processes: what runs inside.
    """

    name: str
    spec: Spec
    phase: str = ""
    seconds: float = 0.0
    left: float | None = None
    busy: float | None = None
    cpu_seconds: float | None = None
    cpu_throttled_seconds: float | None = None
    memory_bytes: int | None = None
    tasks: int | None = None
    processes: Sequence[ProcessInfo] = field(default=())


def line(running: Running, style: Style) -> Line:
    """At most `style.width` cells."""
    name = printable(running.name, style.encoding)
    figures = [(f"{running.phase} {_whole(running.seconds)}", ()), *_figures(running)]
    prefix = _PREFIX if style.width >= 60 else ""
    while figures:
        room = style.width - width_of(prefix) - sum(2 + width_of(text) for text, _styles in figures)
        if room >= min(_LEAST_NAME, width_of(name)) or (len(figures) == 1 and room > 2):
            break
        figures.pop()
    else:
        room = style.width - width_of(prefix)
    spans: list[Span] = [(prefix, ("cyan",)), (cut_middle(name, max(room, 0), style.ellipsis), ())]
    for figure in figures:
        spans += [("  ", ()), figure]
    return clip(tuple(spans), style.width, style.ellipsis)


def _figures(running: Running) -> Iterator[Span]:
    """In the order of what they tell."""
    spec = running.spec
    if running.memory_bytes is not None:
        used, cap = format_size(running.memory_bytes), format_size(spec.memory or 0)
        if spec.memory is not None and used.split()[1] == cap.split()[1]:
            used = used.split()[0]
        yield _against("memory", used, running.memory_bytes, spec.memory, format_size)
    if running.busy is not None:
        yield _against("cpu", f"{running.busy:.0%}", running.busy, spec.cpu, lambda cap: f"{cap:.0%}")
    if running.left is not None:
        near = running.left < (1 - _NEAR) * (running.seconds + running.left)
        yield f"timeout in {_whole(running.left)}", ("yellow",) if near else ()
    if running.tasks is not None:
        yield _against("pids", str(running.tasks), running.tasks, spec.pids, str)


def _against(what: str, used: str, value: float, cap: float | None, show: Callable[[float], str]) -> Span:
    if cap is None:
        return f"{what} {used}", ()
    return f"{what} {used} of {show(cap)}", ("yellow",) if value >= _NEAR * cap else ()


def _whole(seconds: float) -> str:
    """Without fractions: it changes once a second."""
    minutes, rest = divmod(int(max(seconds, 0)), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def block(running: Running, companions: Sequence[Running] = (), worker: str = "") -> str:
    """Lines for a log, each ended."""
    times = [f"{running.phase}, {format_duration(running.seconds)}"]
    if running.left is not None:
        times.append(f"timeout in {format_duration(max(running.left, 0.0))}")
    lines = [f"isolate{f' [{worker}]' if worker else ''}: {_shown(running.name)} ({', '.join(times)})"]
    lines += [f"  {text}" for text in _details(running)]
    for companion in companions:
        lines += [f"  sandbox {_shown(companion.name)}", *(f"    {text}" for text in _details(companion))]
    return "".join(f"{text}\n" for text in lines)


def _details(running: Running) -> Iterator[str]:
    spec, used = running.spec, []
    if running.cpu_seconds is not None:
        share = f" ({running.busy:.0%} of one CPU)" if running.busy is not None else ""
        used.append(f"cpu {format_duration(running.cpu_seconds)}{share}{f', cap {spec.cpu:.0%}' if spec.cpu else ''}")
    if running.cpu_throttled_seconds:
        used.append(f"throttled {format_duration(running.cpu_throttled_seconds)}")
    if running.memory_bytes is not None:
        used.append(f"memory {format_size(running.memory_bytes)}{f', cap {format_size(spec.memory)}' if spec.memory else ''}")
    if running.tasks is not None:
        used.append(f"pids {running.tasks}{f', cap {spec.pids}' if spec.pids else ''}")
    yield "; ".join(used) or "no cgroup: no figures"
    for process in running.processes[:_MOST_PROCESSES]:
        text = _shown(str(process))
        yield text if len(text) <= _MOST_COMMAND else f"{text[: _MOST_COMMAND - 3]}..."
    if (more := len(running.processes) - _MOST_PROCESSES) > 0:
        yield f"and {more} more processes"


def _shown(text: str) -> str:
    return printable(text, "utf-8")
