"""One report out of two: the test process's of a phase, and what the pytest process adds to it.

The teardown of wide fixtures runs in the pytest process, after the test process has ended. In plain pytest
both would be one phase with one report, so their output and their errors are put together here. And failures
that the pytest process finds by itself, as a crash, are made to look like a report on the test.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import pytest
from _pytest._code.code import ExceptionChainRepr, TerminalRepr

from pytest_isolate.model.errors import error_from_json
from pytest_isolate.plugin import private

__all__ = ["Given", "fail_at", "join_captured", "one", "raise_at", "raise_departure", "restored", "set_captured", "shown"]

_ORDER = {"stdout": 0, "stderr": 1, "log": 2}  # that of pytest's own wrappers
_ALSO = "\nThe teardown of wider fixtures, in the pytest process, failed as well:\n"


@dataclass(frozen=True, slots=True)
class Given:
    """A phase's report as the test process made it, and what the phase raised."""

    report: pytest.TestReport
    error: dict[str, Any] | None


def fail_at(item: pytest.Item, text: str) -> NoReturn:
    """Fail with `text` alone, placed at the test.

    pytest places a failure at the innermost frame that isn't hidden, and says so where all are. The frame that
    is made here has the test's file and line, as template engines do it, so that ``--tb=line`` and editors
    go there.
    """
    __tracebackhide__ = True
    try:
        path, line, _ = item.reportinfo()
    except Exception:  # noqa: BLE001 - of a plugin's own kind of item
        path, line = item.path, 0
    raise_at(pytest.fail.Exception(text, pytrace=False), os.fspath(path), (line or 0) + 1)


def raise_at(error: BaseException, path: str, line: int) -> NoReturn:
    """Raise `error` from a frame that has this file and line; `fail_at` says why."""
    __tracebackhide__ = True
    code = compile("\n" * (line - 1) + "raise error from None", path, "exec")
    exec(code, {"error": error})  # noqa: S102 - the line above
    raise error


def raise_departure(item: pytest.Item, frame: Mapping[str, Any]) -> NoReturn:
    """What the last frame of a test process means that left without its report."""
    match frame["kind"]:
        case "exit":
            raise_at(pytest.exit.Exception(frame["reason"], frame["status"]), *frame["at"])
        case "interrupt":
            raise_at(KeyboardInterrupt(*frame["error"]["args"]), *frame["at"])
        case "refused":
            from pytest_isolate.machine.explain import explained

            fail_at(item, str(explained(error_from_json(frame["error"]))))
        case _:
            fail_at(item, f"pytest's own part failed in the test process:\n{frame.get('trace', '')}")


_WRITES = ("line", "sep", "write")
_WIRE_ONLY = ("$report_type", "_report_type", "_subtest.context")


class Shown(TerminalRepr):
    """A failure as it was written on a terminal: text with its colours.

    pytest's JSON keeps the structure of exceptions only; of doctests and missing fixtures it keeps the text, which then
    counts as a message and is repeated in the short summary.
    """

    def __init__(self, calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]]) -> None:
        self._calls = calls

    def toterminal(self, tw: Any) -> None:
        for name, args, markup in self._calls:
            getattr(tw, name)(*args, **markup)


class _Writer:
    """In place of pytest's TerminalWriter: notes what is written."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.hasmarkup = True
        self.fullwidth = 80

    def __getattr__(self, name: str) -> Any:
        if name not in _WRITES:
            raise AttributeError(name)
        return lambda *args, **markup: self.calls.append((name, args, markup))


def shown(report: pytest.TestReport) -> Any:
    """For the wire, beside the report: how its failure looks, where pytest's JSON would lose that; else None."""
    failure: Any = report.longrepr
    if not hasattr(failure, "toterminal") or hasattr(failure, "reprtraceback"):
        return None
    writer = _Writer()
    try:
        failure.toterminal(writer)
    except Exception:  # noqa: BLE001 - a plugin's own kind that writes in another way: then it is text
        return None
    return writer.calls


def restored(item: pytest.Item, frame: dict[str, Any]) -> pytest.TestReport:
    """The report of a frame, as it was before it was JSON; what is equal for all reports of `item` is there once."""
    config, data = item.config, frame["report"]
    for name, own in (("nodeid", item.nodeid), ("location", item.location)):
        if data.get(name) == own:
            data[name] = own
    data["keywords"] = {sys.intern(str(name)): value for name, value in data["keywords"].items()}
    report: pytest.TestReport = config.hook.pytest_report_from_serializable(config=config, data=data)
    for name in _WIRE_ONLY:
        vars(report).pop(name, None)
    if (calls := frame.get("shown")) is not None:
        report.longrepr = Shown(calls)
    if (context := data.get("_subtest.context")) is not None and hasattr(report, "context"):
        # pytest takes the repr of each parameter in the constructor, and so once more of those that are reprs already.
        object.__setattr__(report.context, "kwargs", context["kwargs"])
    return report


def join_captured(item: pytest.Item, phase: str) -> bool:
    """One section per kind of output in `phase`, where each process captured a part of it.

    Returns whether this process captured something in `phase`, that is, whether the test process's report lacks it.
    """
    sections = private.captured_sections(item)
    joined: dict[str, str] = {}
    for when, key, text in sections:
        if when == phase:
            joined[key] = _joined(key, joined[key], text) if key in joined else text
    if joined:
        rest = [section for section in sections if section[0] != phase]
        keys = sorted(joined, key=lambda key: _ORDER.get(key, len(_ORDER)))
        sections[:] = [*rest, *((phase, key, joined[key]) for key in keys)]
    return bool(joined)


def _joined(key: str, first: str, second: str) -> str:
    return f"{first}\n{second}" if key == "log" else first + second


def set_captured(item: pytest.Item, report: pytest.TestReport) -> None:
    """Give `report` what the item has captured; sections that plugins added stay behind it."""
    own = [(f"Captured {key} {when}", text) for when, key, text in private.captured_sections(item)]
    names = {name for name, _ in own}
    report.sections = own + [section for section in report.sections if section[0] not in names]


def one(inside: pytest.TestReport, outside: pytest.TestReport | None) -> pytest.TestReport:
    """The report of a phase that ran in the test process.

    Args:
        outside: of this process, where the phase failed here too (or here only): wider fixtures' teardown.
    """
    if outside is None:
        return inside
    if inside.failed:
        inside.longrepr = _both(inside, outside)
        return inside
    for name, value in vars(inside).items():  # what plugins put on it
        vars(outside).setdefault(name, value)
    outside.sections = list(inside.sections)
    return outside


def _both(inside: pytest.TestReport, outside: pytest.TestReport) -> Any:
    """Both failures as one chain, the way pytest shows an exception with its cause."""
    if isinstance(inside.longrepr, ExceptionChainRepr) and isinstance(outside.longrepr, ExceptionChainRepr):
        *earlier, (trace, crash, _) = inside.longrepr.chain
        return ExceptionChainRepr([*earlier, (trace, crash, _ALSO), *outside.longrepr.chain])
    return f"{inside.longreprtext}\n{_ALSO}\n{outside.longreprtext}"
