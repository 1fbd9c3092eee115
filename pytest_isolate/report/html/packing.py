"""A document made small enough for a page: what is known once is said once, and no more digits than a plot can show.

The names of figures and equal specs of thousands of tests would be most of the page. `tests.js` undoes this.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

__all__ = ["SAMPLE_ROWS", "packed"]

SAMPLE_ROWS: Final = 30_000
"""Of all tests together; where there are more, each test keeps a share of its own, its peaks among them."""

_FEWEST: Final = 16

_OWN_FORM: Final = ("usage", "spec", "samples", "budget", "repetitions")
_BUDGET: Final = ("figure", "used", "allowed", "verdict", "place")
_CHANGE: Final = ("figure", "before", "after", "change", "noise", "verdict", "limit", "exceeded")


def packed(document: Mapping[str, Any]) -> dict[str, Any]:
    """`document` with its tests as the page takes them; everything else as it is."""
    tests: Sequence[Mapping[str, Any]] = document.get("tests", ())
    columns = list(dict.fromkeys(name for test in tests for name in test.get("usage", {})))
    specs: dict[str, int] = {}
    rows = sum(len(test["samples"]["rows"]) for test in tests if test.get("samples"))
    share = 1.0 if rows <= SAMPLE_ROWS else SAMPLE_ROWS / rows
    small = {
        **document,
        "tests": [_test(test, columns, specs, share) for test in tests],
        "usage_columns": columns,
        "specs": [json.loads(spec) for spec in specs],
        "budget_columns": _BUDGET,
        "samples_thinned": share < 1,
    }
    if comparison := document.get("comparison"):
        numbers = {test["nodeid"]: number for number, test in enumerate(tests)}
        rows_of = [[numbers.get(row["nodeid"], row["nodeid"]), *_row(row, _CHANGE)] for row in comparison["tests"]]
        for row in rows_of:
            while row[-1] is None:  # most have no limit
                row.pop()
        small["comparison"] = {**comparison, "columns": ("nodeid", *_CHANGE), "tests": rows_of}
    return small


def _row(values: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    return [_short(values.get(name)) for name in names]


def _test(test: Mapping[str, Any], columns: Sequence[str], specs: dict[str, int], share: float) -> dict[str, Any]:
    usage = test.get("usage", {})
    small = {name: value for name, value in test.items() if value not in ([], {}, None) and name not in _OWN_FORM}
    small["usage"] = [_short(usage.get(name)) for name in columns]
    small["spec"] = specs.setdefault(json.dumps(test.get("spec", {}), sort_keys=True), len(specs))
    if budget := test.get("budget"):
        small["budget"] = [_row(each, _BUDGET) for each in budget]
    if repetitions := test.get("repetitions"):
        small["repetitions"] = {"count": len(repetitions), "ranges": [_range(repetitions, name) for name in columns]}
    if "started" in small:
        small["started"] = round(small["started"], 5)
    if samples := test.get("samples"):
        small["samples"] = {**samples, "rows": [[_short(value) for value in row] for row in _thinned(samples, share)]}
    return small


def _range(usages: Sequence[Mapping[str, Any]], name: str) -> list[Any] | None:
    """Of one figure; None where it isn't known."""
    values = [usage[name] for usage in usages if name in usage]
    return [_short(min(values)), _short(max(values))] if values else None


def _short(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _thinned(samples: Mapping[str, Any], share: float) -> Sequence[Sequence[Any]]:
    """About `share` of the rows: of each stretch the one with the most memory, beside the first and the last, and those at which an OOM kill was seen."""
    rows: Sequence[Sequence[Any]] = samples["rows"]
    keep = max(_FEWEST, int(len(rows) * share))
    if share >= 1 or len(rows) <= keep:
        return rows
    memory, kills = (samples["columns"].index(name) for name in ("memory_bytes", "oom_kills"))
    step = len(rows) / keep
    stretches = [range(round(number * step), round((number + 1) * step)) for number in range(keep)]
    chosen = {max(stretch, key=lambda at: rows[at][memory] or 0) for stretch in stretches if stretch}
    chosen |= {at for at in range(1, len(rows)) if (rows[at][kills] or 0) > (rows[at - 1][kills] or 0)}
    return [rows[at] for at in sorted(chosen | {0, len(rows) - 1})]
