"""Budgets that are suggested hold for the runs that they come from, and are added to a file without harm."""

from __future__ import annotations

import random
import tomllib
from fnmatch import fnmatchcase

import pytest

from pytest_isolate.model.figures import FIGURES
from pytest_isolate.report.baseline import Samples
from pytest_isolate.report.suggestion import BY, By, added_to, suggest

MIB = 1 << 20


def allowed(entries: dict[str, dict[str, object]], nodeid: str) -> dict[str, float]:
    """What holds for a test: of two patterns that match, the later one counts, figure by figure."""
    found: dict[str, float] = {}
    for pattern, limits in entries.items():
        if pattern in (nodeid, nodeid.partition("::")[0]):
            found |= {name: FIGURES[name].parse(limit) for name, limit in limits.items()}
    return found


@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("headroom", [0.0, 0.3])
def test_what_is_printed_holds_for_the_runs_that_it_was_made_from(by: str, headroom: float) -> None:
    source = random.Random(f"{by} {headroom}")
    figures = tuple(FIGURES)
    tests: dict[str, Samples] = {}
    for number in range(300):
        samples = {}
        for name, figure in FIGURES.items():
            top = {"duration": 7, "size": 11, "count": 4}[figure.kind]
            values = [
                0.0
                if source.random() < 0.2
                else 10 ** source.uniform(-5 if figure.kind == "duration" else 0, top - 5 * (figure.kind == "duration"))
                for _ in range(2)
            ]
            samples[name] = tuple(value if figure.kind == "duration" else float(round(value)) for value in values)
        tests[f'tests/test_{number % 20}.py::test[{number}-"ü\\\\x"]'] = samples
    text = suggest([tests], figures=figures, headroom=headroom, by=by).toml("comment")
    entries = tomllib.loads(text)["tool"]["pytest-isolate"]["budgets"]
    for nodeid, samples in tests.items():
        limits = allowed(entries, nodeid)
        for name, values in samples.items():
            assert max(values) * (1 + headroom) <= limits[name] * (1 + 1e-9)
            if by == "test" and max(values) > 10**9:
                assert limits[name] < max(values) * (1 + headroom) * 1.11


def samples(memory: float, cpu: float = 1.0) -> Samples:
    return {"memory": (memory * MIB,), "cpu": (cpu,)}


def test_tests_that_are_alike_share_an_entry_and_others_have_what_they_need_more() -> None:
    tests = {
        "tests/test_a.py::test_1": samples(30),
        "tests/test_a.py::test_2": samples(33),
        "tests/test_a.py::test_3": samples(28),
        "tests/test_a.py::test_large": samples(300),
        "tests/test_b.py::test_slow": samples(20, 20.0),
    }
    made = suggest([tests], figures=("cpu", "memory"), headroom=0.3)
    assert made.entries == {
        "tests/test_a.py": {"memory": "43MiB", "cpu": "1.3s"},
        "tests/test_a.py::test_large": {"memory": "390MiB"},
        "tests/test_b.py": {"memory": "26MiB", "cpu": "26s"},
    }
    assert made.tests == 5


def test_greatest_value_of_all_runs_counts_and_tiny_ones_have_a_floor() -> None:
    first = {"test_a.py::test": {"memory": (MIB * 1.0, MIB * 50.0), "cpu": (0.001,), "processes_left": (0.0,)}}
    second = {"test_a.py::test": {"memory": (MIB * 40.0,), "cpu": (0.002,), "processes_left": (0.0,)}}
    made = suggest([first, second], figures=("cpu", "memory", "processes_left", "disk"), headroom=0.0)
    assert made.entries == {"test_a.py": {"cpu": "100ms", "memory": "50MiB", "processes_left": "0"}}
    assert made.toml("x").splitlines()[-1] == '"test_a.py" = { cpu = "100ms", memory = "50MiB", processes_left = 0 }'


TABLE = suggest([{"test_a.py::test": samples(30)}], figures=("memory",), headroom=0.3).toml("From main")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[project]\nname = 'x'",
        "[tool.pytest-isolate.profiles.small]\nmemory = '1MiB'\n",
        "# nothing\n",
        "[tool]\nx = 1\n",
        "[tool.ruff]\nline-length = 100 # wide\n\n[[tool.other]]\na = 1\n",
    ],
)
def test_table_is_added_at_the_end_and_all_else_stays(content: str) -> None:
    added = added_to(content, TABLE)
    assert added.startswith(content)
    assert tomllib.loads(added)["tool"]["pytest-isolate"]["budgets"] == {"test_a.py": {"memory": "39MiB"}}


@pytest.mark.parametrize(
    "content,said",
    [
        ("[tool.pytest-isolate.budgets]\n'a' = { cpu = '1s' }\n", "there is a [tool.pytest-isolate.budgets] already"),
        ("[tool]\npytest-isolate.budgets = {}\n", "already"),
        ("tool = { x = 1 }\n", "can't be added at its end"),
        ("[tool]\npytest-isolate = { profiles = {} }\n", "can't be added at its end"),
        ("[project\n", "it is no TOML"),
    ],
)
def test_table_that_cannot_be_added_is_refused(content: str, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        added_to(content, TABLE)
    assert said in str(caught.value)


@pytest.mark.parametrize("by", BY)
def test_name_that_toml_cannot_hold_is_a_pattern_that_matches_it(by: By) -> None:
    """Bytes that aren't UTF-8 are lone surrogates in Python's text."""
    name = "test_\udcff[1].py::test[a*\ud800]"
    table = suggest([{name: {"pids": (3.0,)}}], figures=["pids"], headroom=0.3, by=by).toml("comment")
    (pattern,) = tomllib.loads(table.encode().decode())["tool"]["pytest-isolate"]["budgets"]
    matched = name if by == "test" else name.partition("::")[0]
    assert pattern != matched
    assert fnmatchcase(matched, pattern)
    assert not fnmatchcase("test_x1.py", pattern)
