"""`model.budget` and `report.budget`: limits read, merged and judged, and what is said of a breach."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pytest_isolate.model.budget import Judged, breached, judge, parse_budget
from pytest_isolate.model.figures import FIGURES
from pytest_isolate.model.keys import KEYS
from pytest_isolate.model.layers import Layer, merge
from pytest_isolate.model.net import Net
from pytest_isolate.model.spec import Spec, contradictions
from pytest_isolate.model.usage import Usage
from pytest_isolate.report.budget import limit_for, sentence, text

MIB = 1 << 20


def test_every_figure_is_named_by_the_key_in_its_kind() -> None:
    for kind, heading in (("duration", "durations"), ("size", "sizes"), ("count", "numbers")):
        names = ", ".join(figure.name for figure in FIGURES.values() if figure.kind == kind)
        assert f"{names} ({heading})" in KEYS["budget"].accepted


def test_limits_are_read_in_each_figures_unit_and_put_in_order() -> None:
    given = {"processes_left": 0, "memory": "64MiB", "cpu": "100ms", "io_write": 5, "wall": None, "pids": "none"}
    assert parse_budget(given) == (
        ("cpu", 0.1), ("wall", None), ("memory", 64 * MIB), ("pids", None), ("io_write", 5), ("processes_left", 0),
    )  # fmt: skip


@pytest.mark.parametrize(
    "value", [None, 3, "64MiB", [], {"memory": "64 apples"}, {"mem": 1}, {1: 1}, {"pids": 1.5}, {"cpu": "-1s"}]
)
def test_what_is_no_budget_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_budget(value)


def test_places_merge_figure_by_figure_and_none_removes() -> None:
    layers = [
        Layer("near", {"budget": (("cpu", 1.0), ("pids", None))}),
        Layer("middle", {"pids": 3}),
        Layer("far", {"budget": (("cpu", 9.0), ("memory", MIB), ("pids", 9))}),
    ]
    merged = merge(layers)
    assert merged.spec == Spec(pids=3, budget=(("cpu", 1.0), ("memory", MIB)))
    assert merged.places == {"budget.cpu": "near", "budget.memory": "far", "pids": "middle"}


def test_cap_in_the_place_of_the_budget_that_it_makes_meaningless_is_a_contradiction() -> None:
    together = merge([Layer("here", {"memory": MIB, "budget": (("memory", MIB),)})])
    assert [(error.key, error.place) for error in together.errors] == [("budget.memory+memory", "here")]
    assert merge([Layer("here", {"memory": MIB}), Layer("there", {"budget": (("memory", MIB),)})]).errors == ()
    assert merge([Layer("here", {"memory": MIB, "budget": (("memory", MIB - 1),)})]).errors == ()


def test_traffic_is_counted_on_bridges_alone() -> None:
    limits = (("net_rx", 1.0), ("net_tx", 1.0))
    assert [error.key for error in contradictions(Spec(budget=limits))] == ["budget.net_rx+net", "budget.net_tx+net"]
    assert [error.key for error in contradictions(Spec(budget=limits, net=Net("host")))] == [
        "budget.net_rx+net",
        "budget.net_tx+net",
    ]
    assert contradictions(Spec(budget=limits, net=Net("bridge"))) == []


def test_weakening_gives_up_one_figure_or_those_of_the_network() -> None:
    spec = Spec(budget=(("cpu", 1.0), ("memory", 1), ("net_tx", 1)), net=Net("bridge"), pids=3)
    assert dict(spec.without(["budget.memory"]).budget) == {"cpu": 1.0, "net_tx": 1}
    assert dict(spec.without(["net"]).budget) == {"cpu": 1.0, "memory": 1}
    assert spec.without(["budget"]).budget == ()
    assert spec.without(["pids"]).budget == spec.budget


def test_judgement_survives_json_and_knows_within_over_and_unmeasured() -> None:
    usage = Usage(cpu_seconds=2.0, memory_peak_bytes=MIB, leaked_processes=1)
    budget = (("cpu", 1.0), ("memory", MIB), ("memory_own", MIB), ("processes_left", 0))
    judged = judge(budget, usage, {"budget.cpu": "here"})
    assert [(each.figure, each.verdict) for each in judged] == [
        ("cpu", "over"), ("memory", "within"), ("memory_own", "unmeasured"), ("processes_left", "over"),
    ]  # fmt: skip
    assert [each.figure for each in breached(judged)] == ["processes_left", "cpu"]
    assert tuple(Judged.from_json(json.loads(json.dumps(each.to_json()))) for each in judged) == judged
    assert [each.figure for each in judge(budget, usage, {}, ("cpu", "memory_own"))] == ["memory", "processes_left"]


def judged(figure: str, used: float | None, allowed: float) -> Judged:
    verdict: Any = "unmeasured" if used is None else "over" if used > allowed else "within"
    return Judged(figure, used, allowed, verdict, "marker")


@pytest.mark.parametrize(
    "figure,used,allowed,said",
    [
        ("memory", 81.3 * MIB, 64 * MIB, "memory 81.3 MiB, budget 64 MiB: 27 % over"),
        ("memory", 64 * MIB + 1, 64 * MIB, "memory 64.0 MiB, budget 64 MiB: 1 B over"),
        ("io_write", 4_000_000, 1_000_000, "io_write 3.8 MiB, budget 1 MB: 300 % over"),
        ("net_tx", 2500, 2000, "net_tx 2.4 KiB, budget 2 kB: 25 % over"),
        ("disk", 1, 0, "disk 1 B, budget 0 B: 1 B over"),
        ("cpu", 1.5, 1.0, "cpu 1.50 s, budget 1 s: 50 % over"),
        ("cpu", 20.0, 0.1, "cpu 20.00 s, budget 100 ms: 200 times as much"),
        ("pids", 12, 10, "pids 12, budget 10: 20 % over"),
        ("processes_left", 2, 0, "processes_left 2, budget 0: 2 over"),
        ("wall", 130.0, 100.0, "wall 2 min 10 s, budget 1 min 40 s: 30 % over"),
        ("memory_own", None, MIB, "budget for memory_own, and it could not be measured"),
        ("cpu", 0.5, 1.0, ""),
    ],
)
def test_sentence_stands_alone(figure: str, used: float | None, allowed: float, said: str) -> None:
    assert sentence([judged(figure, used, allowed)]) == said


def test_text_of_a_breach() -> None:
    found = text(
        [judged("cpu", 0.5, 1.0), judged("memory", 81.3 * MIB, 64 * MIB), judged("pids", 12, 10)],
        Usage(memory_peak_bytes=int(81.3 * MIB), memory_inherited_bytes=int(25.25 * MIB)),
        {"memory": [60 * MIB, 61 * MIB], "cpu": [0.4]},
    )
    lines = found.splitlines()
    assert lines[:10] == [
        "memory 81.3 MiB, budget 64 MiB: 27 % over; also over: pids",
        "",
        "figure  used      allowed  by how much  set in",
        "cpu     500 ms    1 s      50 % of it   marker",
        "memory  81.3 MiB  64 MiB   27 % over    marker",
        "pids    12        10       20 % over    marker",
        "",
        "memory counts pages of pytest's own heap that the test copied by writing to them (a reference count is enough): an estimated 25.2 MiB of 81.3 MiB; a budget for memory_own judges the other 56.0 MiB",
        "",
        "former runs, the latest last:",
    ]
    assert lines[10:12] == ["  memory: 60.0 MiB, 61.0 MiB", ""]
    assert [line for line in lines if line.startswith("to allow it: ")] == [
        'to allow it: "memory": "90MiB" in marker',
        'to allow it: "pids": 12 in marker',
    ]


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize("value", [0, 1, 3, 999, 1500, 123_456, 5 * MIB + 7, 3 << 30])
def test_proposed_limit_is_read_again_and_kept(figure: str, value: int) -> None:
    used = value / 1e6 if FIGURES[figure].kind == "duration" else value
    proposed = json.loads(limit_for(figure, used))
    assert FIGURES[figure].parse(proposed) >= used


@pytest.mark.parametrize("figure", FIGURES)
def test_every_figure_has_advice(figure: str) -> None:
    assert f"to lower {figure}: " in text([judged(figure, 5.0, 1.0)], Usage(), {})
