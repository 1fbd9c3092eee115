"""The terminal's section as a whole, on a fixed set of records: plain, coloured, at 80 and 140 columns, and under xdist.

The expected texts are the files in `terminal_snapshots`, with ␛ for escape. `ISOLATE_SNAPSHOTS=write` in the environment writes them
anew; the difference is then for a human to look at.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

import pytest

from tests.plugin.test_terminal import CONFTEST, Pytest, terminal

__all__ = ["terminal"]

EXPECTED: Final = Path(__file__).parent / "terminal_snapshots"

SUITE: Final = """
import pytest

MIB = 1 << 20

def figures(**values):
    def mark(function):
        function.figures = values
        return function
    return mark

@figures(cpu_seconds=0.5, cpu_user_seconds=0.4, cpu_system_seconds=0.1, cpu_throttled_seconds=0.25, memory_peak_bytes=64 * MIB, pids_peak=3,
         io_read_bytes=0, io_write_bytes=5 * MIB, disk_written_bytes=7 * MIB, wall_seconds=0.6, setup_seconds=0.003, oom_kills=1,
         leaked_processes=0, spec={"memory": 64 * MIB, "cpu": 0.5},
         problems=[{"kind": "OOM", "text": "OOM: used 64.0 of 64 MiB, killed python3 (pid 7)\\nsecond line", "failed": True}])
def test_too_big(): pass

@figures(cpu_seconds=0.1, memory_peak_bytes=3 * MIB, pids_peak=2, wall_seconds=0.2, setup_seconds=0.004, leaked_processes=2,
         problems=[{"kind": "LEAK", "text": "2 processes left behind: sleep (pid 9), python3 -m http.server 8080 --bind 127.0.0.1 (pid 12)", "failed": False}],
         notes=["threads of the pytest process that tests in sandboxes don't have: pool-1, pool-2"])
def test_leaves_servers_behind_whose_command_lines_are_long(): pass

@figures(cpu_seconds=0.2, memory_peak_bytes=40 * MIB, wall_seconds=61.5, setup_seconds=0.005, spec={"memory": 256 * MIB},
         weakened=["pids needs cgroup-pids: the controller isn't there"])
def test_slow(): pass

@figures(wall_seconds=0.01, setup_seconds=0.002)
def test_of_which_the_machine_knows_little(): pass

class TestPayments:
    @pytest.mark.parametrize("currency", ["euro", "円"])
    def test_transfer_is_booked_once_when_the_connection_breaks(self, currency): pass
    test_transfer_is_booked_once_when_the_connection_breaks.figures = dict(
        cpu_seconds=0.05, memory_peak_bytes=200 * MIB, wall_seconds=0.15, setup_seconds=0.02, spec={"memory": 256 * MIB}, net_tx_bytes=10_000)

def test_plain(): pass
"""

XDIST: Final = ("-p", "xdist", "-n", "2", "--dist=loadfile")
VARIANTS: Final = {
    "plain-80": (80, ("--color=no",)),
    "plain-140": (140, ("--color=no",)),
    "colour-80": (80, ("--color=yes",)),
    "colour-140": (140, ("--color=yes",)),
    "verbose-140": (140, ("--color=no", "-v")),
    "quiet-80": (80, ("--color=no", "-q")),
}


def section(result: pytest.RunResult) -> str:
    """From the section's heading to pytest's next line of its own (in a quiet run, to our last one)."""
    lines = [(re.sub(r"\x1b\[[\d;]*m", "", line), line) for line in result.outlines]
    start = next(number for number, (text, _) in enumerate(lines) if re.match(r"=+ isolate: ", text))
    end = next(number for number, (text, _) in enumerate(lines) if number > start and re.match(r"=+ |\d+ passed", text))
    return "\n".join(_readable(line) for _, line in lines[start:end]).rstrip() + "\n"


def _readable(line: str) -> str:
    """Codes that stand together in one order (pytest's versions differ) and as visible text; no space at the end."""
    line = re.sub(r"(?:\x1b\[\d+m){2,}", lambda codes: "".join(sorted(re.findall(r"\x1b\[\d+m", codes[0]))), line)
    return line.replace("\x1b", "␛").rstrip()


@pytest.mark.parametrize("how", ["alone", "xdist"])
@pytest.mark.parametrize("name", VARIANTS)
def test_section_looks_as_it_did(
    pytester: pytest.Pytester, terminal: Pytest, monkeypatch: pytest.MonkeyPatch, name: str, how: str
) -> None:
    width, options = VARIANTS[name]
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_suite=SUITE)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8")
    result = terminal(*(XDIST if how == "xdist" else ()), *options)
    result.assert_outcomes(passed=7)
    shown = section(result)
    file = EXPECTED / f"{name}.txt"
    if os.environ.get("ISOLATE_SNAPSHOTS") == "write":
        file.write_text(shown, encoding="utf-8")
    assert shown == file.read_text(encoding="utf-8")


def test_every_expected_text_belongs_to_a_test() -> None:
    assert {path.stem for path in EXPECTED.iterdir()} == set(VARIANTS)
