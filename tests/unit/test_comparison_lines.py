"""A comparison on terminals of every width."""

from __future__ import annotations

import pytest

from pytest_isolate.model.growth import parse_limits
from pytest_isolate.report.baseline import Baseline
from pytest_isolate.report.comparison import compare
from pytest_isolate.report.comparison_lines import render_comparison
from pytest_isolate.report.lines import Style, plain
from pytest_isolate.report.width import width_of

MACHINE = {
    "architecture": "x86_64",
    "processor": "Abacus",
    "cpus": 2,
    "kernel": "6.1.0",
    "cgroup_layout": "v2",
    "python": "3.13.1",
    "uid": 0,
}
MIB = float(1 << 20)


def six(value: float) -> tuple[float, ...]:
    return tuple(value * (1 + number / 1000) for number in range(6))


BEFORE = {
    "tests/test_a.py::test_grown": {"memory": six(60 * MIB), "cpu": six(1.0)},
    "tests/test_a.py::test_slower": {"memory": six(10 * MIB), "cpu": six(1.0)},
    "tests/test_a.py::test_same": {"memory": six(10 * MIB)},
    "tests/test_a.py::test_gone": {"memory": six(10 * MIB)},
    "tests/test_a.py::test_broken": {"memory": six(10 * MIB)},
}
AFTER = {
    "tests/test_a.py::test_grown": {"memory": six(80 * MIB), "cpu": six(1.0)},
    "tests/test_a.py::test_slower": {"memory": six(10 * MIB), "cpu": six(1.5)},
    "tests/test_a.py::test_same": {"memory": six(10 * MIB)},
    "tests/test_a.py::test_new": {"memory": six(10 * MIB)},
}
RAN = [*AFTER, "tests/test_a.py::test_broken"]


def comparison(**machine: object):
    baseline = Baseline("main", "/x/main.json", 1_800_000_000.0, "0123456789abcdef", {**MACHINE, **machine}, BEFORE)
    return compare(baseline, AFTER, machine=MACHINE, ran=RAN, limits=parse_limits("memory:10%"))


def lines(width: int, *, verbosity: int = 0, **machine: object) -> list[str]:
    return [plain(line) for line in render_comparison(comparison(**machine), Style(width=width, verbosity=verbosity))]


WIDE = """\
compared with main (0123456789, 2027-01-15): 1 test beyond its limit, 1 grown, 1 same, 1 new, 1 not run, 1 failed
change  noise  limit  figure    before     after  test
+33.3%   0.6%    10%  memory  60.1 MiB  80.2 MiB  tests/test_a.py::test_grown
+50.0%   0.6%         cpu       1.00 s    1.50 s  tests/test_a.py::test_slower
to do: find what made the tests grow; where it is meant to be, record a new baseline: --isolate-save=main"""

NARROW = """\
compared with main (0123456789,
2027-01-15): 1 test beyond its limit, 1
grown, 1 same, 1 new, 1 not run, 1
failed
change  noise  limit  figure    before …
tests/test_a.py::test_grown
+33.3%   0.6%    10%  memory  60.1 MiB …
tests/test_a.py::test_slower
+50.0%   0.6%         cpu       1.00 s …
to do: find what made the tests grow;
       where it is meant to be, record a
       new baseline: --isolate-save=main"""


def test_wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    assert "\n".join(lines(120)) == WIDE


def test_narrow_terminal() -> None:
    assert "\n".join(lines(40)) == NARROW


@pytest.mark.parametrize("width", [10, 30, 60, 80, 140])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    assert all(width_of(line) <= width for line in lines(width, processor="Another one with a long name", python="3.9"))


def test_another_machine_is_said_with_what_differs_and_what_is_not_judged() -> None:
    text = " ".join(lines(200, processor="Older", kernel="5.10.0", uid=1000))
    assert (
        "unlike: the baseline is of another machine (processor Older, here Abacus; kernel 5.10, here 6.1; user a user, here root)"
        in text
    )
    assert "cpu, instructions, wall, memory, memory_own, io_read, io_write not judged" in text
    assert "beyond" not in text
    assert "unlike" not in " ".join(lines(200, kernel="6.1.99-cloud", python="3.13.7", name="another"))


def test_quiet_run_shows_what_failed_it() -> None:
    text = "\n".join(lines(120, verbosity=-1))
    assert "test_grown" in text
    assert "test_slower" not in text
