"""`report.openmetrics`: read by prometheus_client's own parser, and by GitLab's rules."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from pytest_isolate.report.openmetrics import metrics

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def of_test(nodeid: str, worker: str = "", **usage: float) -> dict[str, Any]:
    return {"nodeid": nodeid, "outcome": "passed", "usage": usage, "problems": [], **({"worker": worker} if worker else {})}


def document(
    *tests: dict[str, Any], usage: dict[str, float] | None = None, outcomes: dict[str, int] | None = None
) -> dict[str, Any]:
    return {"tests": list(tests), "totals": {"outcomes": outcomes or {}, "usage": usage or {}}}


def samples(text: str) -> Samples:
    """As prometheus_client reads them; raises ValueError for what isn't OpenMetrics."""
    return {
        (sample.name, tuple(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def gitlab(text: str) -> dict[str, str]:
    """As GitLab reads them: `Gitlab::Ci::Parsers::Metrics::Generic#parse_line`, with Python's shlex for Ruby's shellsplit."""
    found: dict[str, str] = {}
    for line in text.split("\n"):
        name, *values = shlex.split(re.sub(r"#.*$", "", line)) or ("",)
        if name and values:
            assert name not in found, f"{name} twice"
            found[name] = values[0]
    return found


def test_totals_and_tests_are_there_with_their_units():
    text = metrics(
        document(
            of_test("test_a.py::test_one", cpu_seconds=0.25, memory_peak_bytes=1_000_000, wall_seconds=2.0),
            of_test("test_a.py::test_two", cpu_seconds=0.5),
            usage={"cpu_seconds": 0.75, "pids_peak": 12, "io_write_bytes": 0},
            outcomes={"passed": 2},
        )
    )
    assert samples(text) == {
        ("isolate_tests", (("outcome", "passed"),)): 2,
        ("isolate_run_cpu_seconds", ()): 0.75,
        ("isolate_run_pids_peak", ()): 12,
        ("isolate_run_io_write_bytes", ()): 0,
        ("isolate_test_cpu_seconds", (("test", "test_a.py::test_one"),)): 0.25,
        ("isolate_test_cpu_seconds", (("test", "test_a.py::test_two"),)): 0.5,
        ("isolate_test_memory_peak_bytes", (("test", "test_a.py::test_one"),)): 1_000_000,
        ("isolate_test_wall_seconds", (("test", "test_a.py::test_one"),)): 2,
    }
    families = {family.name: (family.type, family.unit) for family in text_string_to_metric_families(text)}
    assert families["isolate_test_cpu_seconds"] == ("gauge", "seconds")
    assert families["isolate_test_memory_peak_bytes"] == ("gauge", "bytes")
    assert families["isolate_run_pids_peak"] == ("gauge", "")
    assert gitlab(text)["isolate_test_cpu_seconds{test=test_a.py::test_two}"] == "0.500"


def test_run_without_a_test_is_a_valid_file():
    assert samples(metrics(document())) == {}


def test_problems_are_counted_by_kind():
    problem = {"kind": "OOM", "text": "x", "failed": True}
    text = metrics(
        document({**of_test("a"), "problems": [problem, problem]}, {**of_test("b"), "problems": [{**problem, "kind": "LEAK"}]})
    )
    assert samples(text) == {("isolate_problems", (("kind", "OOM"),)): 2, ("isolate_problems", (("kind", "LEAK"),)): 1}


def test_last_attempt_counts_and_the_highest_of_two_workers():
    text = metrics(
        document(
            of_test("a", worker="gw0", cpu_seconds=9),
            of_test("a", worker="gw0", cpu_seconds=1),
            of_test("a", worker="gw1", cpu_seconds=2),
        )
    )
    assert samples(text) == {("isolate_test_cpu_seconds", (("test", "a"),)): 2}


def test_repeated_test_has_its_median():
    repetitions = [{"cpu_seconds": value} for value in (3.0, 1.0, 9.0, 2.0)] + [{"wall_seconds": 1.0}]
    text = metrics(document({**of_test("a", cpu_seconds=9.0), "repetitions": repetitions}))
    assert samples(text)["isolate_test_cpu_seconds", (("test", "a"),)] == 2


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.000123456, "0.000123"), (0.0965, "0.0965"), (1.0, "1.00"), (9.9999, "10.00"), (12.345, "12.3"), (1234.5, "1230"),
     (1e-9, "0.00000000100")],
)  # fmt: skip
def test_measured_values_have_three_significant_places(value: float, text: str):
    assert gitlab(metrics(document(usage={"cpu_seconds": value})))["isolate_run_cpu_seconds"] == text


def test_sizes_are_rounded_and_counts_are_not():
    text = metrics(document(usage={"memory_peak_bytes": 67_108_864, "pids_peak": 12_345}))
    assert "isolate_run_memory_peak_bytes 67100000\n" in text
    assert "isolate_run_pids_peak 12345\n" in text


NAMES = [
    "a#b",
    'say "x"',
    "back\\slash",
    "new\nline",
    "it's",
    "tab\there",
    "${HOME} `id`",
    "ä ü 测试",
    "a{b}=c,d",
    "nul\0",
    "line\u2028sep",
    "\x85",
]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_can_be_read_by_both(name: str):
    text = metrics(document(of_test(f"test.py::test[{name}]", cpu_seconds=1.0), of_test("other", cpu_seconds=2.0)))
    assert len(samples(text)) == 2
    assert sorted(gitlab(text).values()) == ["1.00", "2.00"]


@given(st.sets(st.text(max_size=20), max_size=3), st.floats(0, 1e12))
def test_whatever_a_test_is_called_the_file_is_valid(names: set[str], value: float):
    text = metrics(document(*(of_test(name, cpu_seconds=value) for name in names)))
    found = samples(text)
    assert all(read == pytest.approx(value, rel=0.006, abs=1e-300) for read in found.values())
    assert len(gitlab(text)) == len(found)
