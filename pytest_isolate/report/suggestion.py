"""Budgets from what runs used: the greatest value of each figure, with headroom, rounded up to what people write.

Tests of one file that are alike share an entry under the file's path; those that need more have one of their own after it, with
the figures in which they do, because of two patterns that match a test the later one counts. What is printed goes through the
parser of budgets before anybody sees it, so that it holds for the runs that it was made from.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final, Literal

from pytest_isolate.model.figures import FIGURES
from pytest_isolate.report.baseline import Samples

__all__ = ["BY", "DEFAULT_FIGURES", "By", "Suggestion", "added_to", "suggest"]

By = Literal["file", "test"]
BY: Final = ("file", "test")

TABLE: Final = "tool.pytest-isolate.budgets"
DEFAULT_FIGURES: Final = ("cpu", "memory", "pids")
"""Wall time isn't among them: it is the machine's as much as the test's."""

_ALIKE: Final = 2.0
"""Tests of a file whose limit is at most so many times the middle one share theirs."""

_LEAST: Final[Mapping[str, float]] = {
    "cpu": 0.1, "wall": 0.5, "memory": 16 << 20, "memory_own": 8 << 20, "pids": 2, "instructions": 10**8, "disk": 1 << 20, "io_read": 1 << 20,
    "io_write": 1 << 20, "net_rx": 1 << 16, "net_tx": 1 << 16,
}  # fmt: skip
"""No limit that isn't 0 is lower, because below it pytest's own work and the machine's state weigh more than the test's."""

_UNWRITABLE: Final = re.compile(r"[\ud800-\udfff]")
_MAGIC: Final = re.compile(r"[*?[]")

Entry = Mapping[str, str]
"""Limits as they are typed, by figure."""


@dataclass(frozen=True)
class Suggestion:
    """
    Attributes:
        entries: limits by pattern, in the order in which they are to stand.
        tests: how many they were made from.
    """

    entries: Mapping[str, Entry] = field(default_factory=dict)
    tests: int = 0

    def toml(self, comment: str) -> str:
        """The table, with a comment above it."""
        lines = [f"# {comment}", f"[{TABLE}]"]
        for pattern, entry in self.entries.items():
            limits = ", ".join(f"{name} = {limit if limit.isdigit() else json.dumps(limit)}" for name, limit in entry.items())
            lines.append(f"{_quoted(pattern)} = {{ {limits} }}")
        return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """As a basic string of TOML, which takes JSON's escapes."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _writable(nodeid: str) -> str:
    """A pattern for it that TOML can hold, which bytes of a file's name that aren't UTF-8 can't be in."""
    if not _UNWRITABLE.search(nodeid):
        return nodeid
    return _UNWRITABLE.sub("?", _MAGIC.sub(r"[\g<0>]", nodeid))


def suggest(runs: Iterable[Mapping[str, Samples]], *, figures: Sequence[str], headroom: float, by: By = "file") -> Suggestion:
    """
    Args:
        runs: figures of their tests that passed, by node id.
        figures: those to limit.
        headroom: share that is added to the greatest value.
    """
    needed: dict[str, dict[str, float]] = {}
    for tests in runs:
        for nodeid, samples in tests.items():
            known = needed.setdefault(nodeid, {})
            for name in figures:
                if name in samples:
                    known[name] = max(known.get(name, 0.0), *samples[name])
    limits = {nodeid: _with_headroom(known, headroom) for nodeid, known in needed.items() if known}
    entries = _by_file(limits) if by == "file" else limits
    return Suggestion(
        {_writable(pattern): {n: FIGURES[n].typed(value) for n, value in entry.items()} for pattern, entry in entries.items()},
        len(limits),
    )


def _with_headroom(known: Mapping[str, float], headroom: float) -> dict[str, float]:
    return {name: max(value * (1 + headroom), _LEAST.get(name, 0.0)) if value else 0.0 for name, value in known.items()}


def _by_file(limits: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    files: dict[str, list[str]] = {}
    for nodeid in sorted(limits):
        files.setdefault(nodeid.partition("::")[0], []).append(nodeid)
    entries: dict[str, dict[str, float]] = {}
    for path, nodeids in files.items():
        shared = _shared([limits[nodeid] for nodeid in nodeids])
        entries[path] = shared
        for nodeid in nodeids:
            if more := {name: value for name, value in limits[nodeid].items() if value > shared[name]}:
                entries[nodeid] = more
    return entries


def _shared(tests: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """For each figure the greatest limit of those that are alike; one at least is."""
    found = {}
    for name in dict.fromkeys(name for test in tests for name in test):
        values = [test[name] for test in tests if name in test]
        bound = median(values) * _ALIKE
        found[name] = max(value for value in values if value <= bound)
    return found


def added_to(content: str, table: str) -> str:
    """`content` of a pyproject.toml with `table` at its end, all else as it was.

    Raises:
        ValueError: it can't be done without harm, and why.
    """
    try:
        before = tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"it is no TOML: {error}") from None
    if "budgets" in _ours(before):
        raise ValueError(f"there is a [{TABLE}] already, whose entries only you can merge with these")
    added = content + ("" if not content or content.endswith("\n") else "\n") + ("\n" if content else "") + table
    try:
        after = tomllib.loads(added)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"[{TABLE}] can't be added at its end: {error}") from None
    del _ours(after)["budgets"]
    if _pruned(after) != _pruned(before):
        raise ValueError(f"[{TABLE}] at its end would change what is there")
    return added


def _ours(document: Any) -> Any:
    tool = document.get("tool", {})
    return tool.get("pytest-isolate", {}) if isinstance(tool, dict) else {}


def _pruned(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Without our table where nothing else is in it: an empty one says nothing."""
    tool = {name: table for name, table in document.get("tool", {}).items() if name != "pytest-isolate" or table}
    rest = {name: table for name, table in document.items() if name != "tool"}
    return {**rest, "tool": tool} if tool else rest
