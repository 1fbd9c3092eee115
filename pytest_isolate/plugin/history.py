"""What budgeted figures came to in former runs: the last few values of each, in pytest's cache.

Only tests with a budget are in it. The process that reports writes it, at the end of the run; whoever tells of a breach reads it.
Without pytest's cache there is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from pytest_isolate.report.budget import KIND
from pytest_isolate.report.record import TestRecord

__all__ = ["KEPT", "former", "remember"]

KEPT: Final = 10
"""Values of a figure."""

_KEY: Final = "isolate/budgets"

_known_key: Final = pytest.StashKey["History"]()

History = dict[str, dict[str, list[float]]]


def former(config: pytest.Config, nodeid: str) -> Mapping[str, list[float]]:
    """By figure, what former runs of a test used, the latest last. Read once in a run: it takes a while where thousands of tests are in it."""
    if _known_key not in config.stash:
        config.stash[_known_key] = _read(config)
    return config.stash[_known_key].get(nodeid, {})


def remember(config: pytest.Config, records: Iterable[TestRecord]) -> None:
    """Add a run: of each test that came to its end what its budgeted figures were. Tests whose file is gone are dropped."""
    cache: Any = getattr(config, "cache", None)
    if cache is None:
        return
    known = _read(config)
    for record in records:
        if record.outcome not in ("passed", "xpassed") and not any(
            problem.kind == KIND and problem.failed for problem in record.problems
        ):
            continue  # it was cut short, by something else than its budget
        of_test = known.setdefault(record.nodeid, {})
        for judged in record.budget:
            if judged.used is not None:
                value = judged.used if isinstance(judged.used, int) else round(judged.used, 6)
                of_test[judged.figure] = [*of_test.get(judged.figure, ()), value][-KEPT:]
    files: dict[str, bool] = {}
    for nodeid in list(known):
        file = nodeid.partition("::")[0]
        if file not in files:
            files[file] = (Path(config.rootpath) / file).exists()
        if not files[file]:
            del known[nodeid]
    cache.set(_KEY, known)


def _read(config: pytest.Config) -> History:
    cache: Any = getattr(config, "cache", None)
    found = cache.get(_KEY, None) if cache is not None else None
    return {nodeid: figures for nodeid, figures in found.items() if _is_right(figures)} if isinstance(found, dict) else {}


def _is_right(figures: object) -> bool:
    """Whether it is what this version writes; anybody can edit the file."""
    return isinstance(figures, dict) and all(
        isinstance(values, list) and all(isinstance(value, (int, float)) for value in values) for values in figures.values()
    )
