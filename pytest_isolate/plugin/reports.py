"""One report out of two: the test process's of a phase, and what the pytest process adds to it.

The teardown of wide fixtures runs in the pytest process, after the test process has ended. In plain pytest
both would be one phase with one report, so their output and their errors are put together here. And failures
that the pytest process finds by itself, as a crash, are made to look like a report on the test.
"""

from __future__ import annotations

import os
from typing import Any, NoReturn

import pytest
from _pytest._code.code import ExceptionChainRepr

from pytest_isolate.plugin import private

__all__ = ["fail_at", "join_captured", "one", "set_captured"]

_ORDER = {"stdout": 0, "stderr": 1, "log": 2}  # that of pytest's own wrappers
_ALSO = "\nThe teardown of wider fixtures, in the pytest process, failed as well:\n"


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
    error = pytest.fail.Exception(text, pytrace=False)
    code = compile("\n" * (line or 0) + "raise error from None", os.fspath(path), "exec")
    exec(code, {"error": error})  # noqa: S102 - the line above
    raise error


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
