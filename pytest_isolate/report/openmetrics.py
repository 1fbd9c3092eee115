"""A run's figures in the OpenMetrics text format, as GitLab's metrics reports take them.

The format: https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md. GitLab
(https://docs.gitlab.com/ci/testing/metrics_reports) compares the lines of two branches: what is before the value is a metric's
name, and values are compared as strings, so measured ones are rounded. Its parser cuts a line at ``#``, in quotes too, and
then fails as a whole (`Gitlab::Ci::Parsers::Metrics::Generic`), so there is none in labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from pytest_isolate.model.figures import FIGURES, Figure
from pytest_isolate.model.usage import Usage

__all__ = ["metrics"]

_PREFIX: Final = "isolate"
_PER_TEST: Final = ("cpu", "memory", "wall")
_PLACES: Final = 3
"""Significant ones of a measured value: more are noise."""


def metrics(document: Mapping[str, Any]) -> str:
    """The whole file."""
    return "".join(f"{line}\n" for line in (*_totals(document), *_tests(document), "# EOF"))


def _totals(document: Mapping[str, Any]) -> Iterator[str]:
    totals = document["totals"]
    yield from _family(f"{_PREFIX}_tests", "", "isolated tests by outcome")
    for outcome, number in sorted(totals["outcomes"].items()):
        yield _sample(f"{_PREFIX}_tests", {"outcome": outcome}, number)
    yield from _family(f"{_PREFIX}_problems", "", "problems in sandboxes by kind")
    kinds: dict[str, int] = {}
    for test in document["tests"]:
        for problem in test["problems"]:
            kinds[problem["kind"]] = kinds.get(problem["kind"], 0) + 1
    for kind, number in sorted(kinds.items()):
        yield _sample(f"{_PREFIX}_problems", {"kind": kind}, number)
    usage = Usage.from_json(totals["usage"])
    for figure in FIGURES.values():
        if (value := figure.of(usage)) is not None:
            name = f"{_PREFIX}_run_{figure.attribute}"
            yield from _family(name, _unit(figure), f"{figure.meaning}, of all isolated tests")
            yield _sample(name, {}, _rounded(value, figure))


def _tests(document: Mapping[str, Any]) -> Iterator[str]:
    last = {(test["nodeid"], test.get("worker")): test for test in document["tests"]}  # the last attempt is the result
    for figure in (FIGURES[name] for name in _PER_TEST):
        values: dict[str, float] = {}
        for (nodeid, _worker), test in last.items():
            if (value := _value(test, figure)) is not None:
                label = _label(nodeid)
                values[label] = max(value, values.get(label, 0))  # the same test on more than one worker
        if values:
            name = f"{_PREFIX}_test_{figure.attribute}"
            yield from _family(name, _unit(figure), f"{figure.meaning}, of one test")
            for label, value in sorted(values.items()):
                yield f'{name}{{test="{label}"}} {_rounded(value, figure)}'


def _value(test: Mapping[str, Any], figure: Figure) -> float | None:
    """Of a test that was repeated the median, the lower of two."""
    values = [figure.of(Usage.from_json(usage)) for usage in test.get("repetitions") or (test["usage"],)]
    known = sorted(value for value in values if value is not None)
    return known[(len(known) - 1) // 2] if known else None


def _family(name: str, unit: str, meaning: str) -> Iterator[str]:
    yield f"# TYPE {name} gauge"
    if unit:
        yield f"# UNIT {name} {unit}"
    yield f"# HELP {name} {meaning}"


def _unit(figure: Figure) -> str:
    """As OpenMetrics wants it: the end of the metric's name."""
    return next((unit for unit in ("seconds", "bytes") if figure.attribute.endswith(f"_{unit}")), "")


def _sample(name: str, labels: Mapping[str, str], value: float | str) -> str:
    given = ",".join(f'{key}="{_label(text)}"' for key, text in labels.items())
    return f"{name}{{{given}}} {value}" if given else f"{name} {value}"


def _label(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("#", "%23")
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode().replace("\\", "\\\\") for letter in escaped
    )


def _rounded(value: float, figure: Figure) -> str:
    """Three significant places, written out; counts as they are."""
    if figure.kind == "count" or not value:
        return f"{value:.0f}"
    places = _PLACES - 1 - int(f"{value:e}".partition("e")[2])
    return f"{round(value, places):.{max(0, places)}f}"
