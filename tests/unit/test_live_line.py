"""`report.live`: the line about a running test, and the lines that SIGUSR1 is answered with."""

from __future__ import annotations

import pytest

from pytest_isolate.model.spec import Spec
from pytest_isolate.model.usage import ProcessInfo
from pytest_isolate.report.lines import Style, plain
from pytest_isolate.report.live import Running, block, line
from pytest_isolate.report.width import width_of

MIB = 1 << 20
BUSY = Running(
    "tests/orders/test_import.py::test_of_a_large_catalogue[utf-8]",
    Spec(memory=64 * MIB, cpu=0.2, pids=10, timeout=30),
    phase="call",
    seconds=12.7,
    left=17.3,
    busy=0.197,
    cpu_seconds=2.5,
    cpu_throttled_seconds=9.8,
    memory_bytes=int(61.2 * MIB),
    tasks=4,
    processes=[ProcessInfo(2, "python", "python -m pytest"), ProcessInfo(7, "sleep", "sleep 60")],
)


FIGURES = "  call 12 s  memory 61.2 of 64.0 MiB  cpu 20% of 20%"
NAMES = {
    180: f"isolate: tests/orders/test_import.py::test_of_a_large_catalogue[utf-8]{FIGURES}  timeout in 17 s  pids 4 of 10",
    140: f"isolate: tests/orders/te…test_of_a_large_catalogue[utf-8]{FIGURES}  timeout in 17 s  pids 4 of 10",
    79: f"isolate: tests…logue[utf-8]{FIGURES}",
    40: "tests/ord…ge_catalogue[utf-8]  call 12 s",
    19: "te…tf-8]  call 12 s",
    9: "te…utf-8]",
}


@pytest.mark.parametrize(("width", "expected"), NAMES.items())
def test_line_fits_and_the_least_telling_figures_go_first(width: int, expected: str) -> None:
    assert plain(line(BUSY, Style(width))) == expected


@pytest.mark.parametrize("width", range(1, 200, 7))
@pytest.mark.parametrize(
    "name", [BUSY.name, "tests/日本語/test_表.py::test_検査[値-値-値-値-値-値-値]", "t", "e\u0301" * 40, "a\nb\x1b[2J" * 9]
)
def test_line_is_never_wider_than_the_terminal(name: str, width: int) -> None:
    running = Running(name, BUSY.spec, "teardown", 4000.0, left=2.0, busy=1.5, memory_bytes=1 << 40, tasks=100)
    shown = plain(line(running, Style(width)))
    assert width_of(shown) <= width
    assert "\x1b" not in shown
    assert "\n" not in shown


def test_what_is_near_its_cap_is_yellow_and_nothing_else() -> None:
    coloured = [text for text, styles in line(BUSY, Style(200)) if styles == ("yellow",)]
    assert coloured == ["memory 61.2 of 64.0 MiB", "cpu 20% of 20%"]
    late = Running("t", Spec(timeout=30, memory=640 * MIB), "call", 28.0, left=2.0, memory_bytes=64 * MIB)
    assert [text for text, styles in line(late, Style(200)) if styles == ("yellow",)] == ["timeout in 2 s"]


def test_figures_without_a_cap_and_those_that_nobody_knows() -> None:
    free = Running("t", Spec(), "setup", 75.0, busy=1.0, memory_bytes=3 * MIB, tasks=2)
    assert plain(line(free, Style(100))) == "isolate: t  setup 1 min 15 s  memory 3.0 MiB  cpu 100%  pids 2"
    assert plain(line(Running("t", Spec(), "call", 2.0), Style(100))) == "isolate: t  call 2 s"


def test_ascii_terminal_gets_ascii() -> None:
    assert plain(line(BUSY, Style(60, "ascii"))).isascii()


def test_block_has_use_against_caps_processes_and_the_other_sandboxes() -> None:
    other = Running("db", Spec(memory=128 * MIB), memory_bytes=5 * MIB, cpu_seconds=0.25, tasks=3)
    assert (
        block(BUSY, [other], "gw1")
        == """\
isolate [gw1]: tests/orders/test_import.py::test_of_a_large_catalogue[utf-8] (call, 12.70 s, timeout in 17.30 s)
  cpu 2.50 s (20% of one CPU), cap 20%; throttled 9.80 s; memory 61.2 MiB, cap 64.0 MiB; pids 4, cap 10
  python (pid 2): python -m pytest
  sleep (pid 7): sleep 60
  sandbox db
    cpu 250 ms; memory 5.0 MiB, cap 128.0 MiB; pids 3
"""
    )


def test_block_without_a_cgroup_says_so_and_leaves_out_what_is_too_much() -> None:
    many = [ProcessInfo(pid, "sh", "x" * 500) for pid in range(2, 15)]
    lines = block(Running("t", Spec(), "call", 1.0, processes=many)).splitlines()
    assert lines[1] == "  no cgroup: no figures"
    assert lines[-1] == "  and 3 more processes"
    assert max(map(len, lines)) <= 122
