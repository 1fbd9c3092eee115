"""`report.record`: what travels on a report, and what a run adds up to."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest

from pytest_isolate.model.net import Net
from pytest_isolate.model.spec import IoLimit, Spec
from pytest_isolate.model.usage import Usage
from pytest_isolate.report.record import Problem, Run, TestRecord, percentile

FULL = TestRecord(
    nodeid="tests/test_a.py::test_b[\udc80é]",
    usage=Usage(**{field.name: number + 1 for number, field in enumerate(fields(Usage))}),
    spec=Spec(
        cpu=0.2, memory=1 << 26, swap=0, pids=9, disk=1 << 20, io=IoLimit(read=1, path="/x"), timeout=5.0,
        writable=("/a", "/b"), hide=("/c",), env=(("A", "1"), ("B", None)), hostname="box", user=1000, net=Net("bridge", network="n", aliases=("a",)),
    ),
    problems=(Problem("oom", "used 64.0 of 64 MiB"), Problem("leak", "sleep (pid 9)\ncommand lines", failed=False)),
    weakened=("memory needs cgroup-memory: none here",),
    notes=("2 threads were alive",),
)  # fmt: skip


def only_builtins(value: object) -> bool:
    if isinstance(value, dict):
        return all(type(name) is str and only_builtins(part) for name, part in value.items())
    if isinstance(value, list):
        return all(only_builtins(part) for part in value)
    return type(value) in (str, int, float, bool, type(None))


def test_full_record_survives_json() -> None:
    assert TestRecord.from_json(json.loads(json.dumps(FULL.to_json()))) == FULL


def test_bare_record_survives_json() -> None:
    record = TestRecord("a.py::t", Usage())
    assert TestRecord.from_json(json.loads(json.dumps(record.to_json()))) == record


def test_json_form_is_the_same_on_both_sides_of_a_pipe_and_builtin_for_execnet() -> None:
    form = FULL.to_json()
    assert json.loads(json.dumps(form)) == form
    assert only_builtins(form)


def test_unknown_figures_are_absent_from_json() -> None:
    assert TestRecord("a.py::t", Usage(cpu_seconds=0.0)).to_json()["usage"] == {"cpu_seconds": 0.0}


def test_keys_of_a_newer_version_are_ignored() -> None:
    form = FULL.to_json() | {"later": 1}
    form["usage"] = form["usage"] | {"later": 1}
    form["spec"] = form["spec"] | {"later": 1}
    assert TestRecord.from_json(form) == FULL


@pytest.mark.parametrize(
    "foreign",
    [
        None,
        True,
        "isolated",
        [],
        {},
        {"nodeid": "a"},
        {"nodeid": "a", "usage": None, "spec": {}, "problems": []},
        {"nodeid": "a", "usage": {}, "spec": {}, "problems": [1]},
        {"nodeid": "a", "usage": {}, "spec": {"io": 3}, "problems": []},
    ],
)
def test_another_plugins_attribute_is_no_record(foreign: object) -> None:
    assert TestRecord.from_json(foreign) is None


def test_rerun_replaces_its_earlier_attempt_but_counts_in_totals() -> None:
    run = Run()
    run.add(TestRecord("t", Usage(cpu_seconds=1.0, memory_peak_bytes=9), problems=(Problem("oom", "used all"),)))
    run.add(TestRecord("t", Usage(cpu_seconds=2.0, memory_peak_bytes=5)))
    assert [test.usage.cpu_seconds for test in run.tests] == [2.0]
    assert len(run.attempts) == 2
    assert run.total("cpu_seconds") == 3.0
    assert run.highest("memory_peak_bytes") == 9
    assert [problem.text for _test, problem in run.problems()] == ["used all (attempt 1 of 2)"]


def test_same_test_on_two_workers_is_two_tests() -> None:
    run = Run()
    for worker in ("gw0", "gw1"):
        run.add(TestRecord("t", Usage(cpu_seconds=1.0), worker=worker))
    assert len(run.tests) == 2
    assert run.total("cpu_seconds") == 2.0


def test_figure_known_of_no_test_has_no_total() -> None:
    run = Run([TestRecord("t", Usage(cpu_seconds=1.0))])
    assert run.total("io_read_bytes") is None
    assert run.highest("pids_peak") is None


def test_figure_known_of_some_tests_adds_up_over_these() -> None:
    run = Run([TestRecord("a", Usage(pids_peak=3)), TestRecord("b", Usage())])
    assert run.highest("pids_peak") == 3


def test_failing_problems_come_before_reported_ones_in_the_order_of_the_run() -> None:
    leak, oom, died = Problem("leak", "", failed=False), Problem("oom", ""), Problem("signal", "")
    run = Run([TestRecord("a", Usage(), problems=(leak,)), TestRecord("b", Usage(), problems=(oom, leak)),
               TestRecord("c", Usage(), problems=(died,))])  # fmt: skip
    assert [(test.nodeid, problem.kind) for test, problem in run.problems()] == [
        ("b", "oom"), ("c", "signal"), ("a", "leak"), ("b", "leak"),
    ]  # fmt: skip


def test_equal_notes_are_kept_once_and_weakened_tests_counted() -> None:
    record = TestRecord("a", Usage(), notes=("n",), weakened=("w", "w"))
    run = Run([record, TestRecord("b", Usage(), notes=("n",), weakened=("w",))])
    run.note("n")
    assert run.notes == ("n",)
    assert run.weakened() == {"w": 2}


@pytest.mark.parametrize(
    "values,share,expected",
    [([7.0], 0.5, 7.0), ([7.0], 0.95, 7.0), ([1.0, 2.0], 0.5, 1.0), ([float(n) for n in range(1, 101)], 0.95, 95.0)],
)
def test_percentile_is_a_value_that_was_measured(values: list[float], share: float, expected: float) -> None:
    assert percentile(values, share) == expected
