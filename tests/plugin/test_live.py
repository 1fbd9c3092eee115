"""The line about a test that runs, on a terminal that an emulator shows: it comes, changes, goes, and leaves no trace."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.capabilities import requires
from tests.support.terminals import Terminal, on_terminal
from tests.support.unprivileged import user_directory

SLOW = """
import time, pytest

def test_before(): pass

@pytest.mark.isolate(memory="64MiB", cpu="50%", pids=10, timeout="60s")
def test_takes_long():
    held = bytearray(b"x") * (20 << 20)
    end = time.monotonic() + 3
    while time.monotonic() < end: pass

def test_after(): pass
"""

LINE = re.compile(r"(?:isolate: )?\S+  (?:setup|call|teardown) \d+ s")
"""One that is drawn, at whatever width."""


def suite(tmp_path: Path, text: str = SLOW, name: str = "test_it.py") -> Path:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text)
    return tmp_path


def live_line(terminal: Terminal) -> str:
    """What is on the screen of it now; empty if nothing is."""
    assert terminal.screen is not None
    found = [line.rstrip() for line in terminal.screen.display if LINE.match(line)]
    assert len(found) <= 1, terminal.screen.display
    return found[0] if found else ""


def wait_for_line(terminal: Terminal, seconds: float = 20) -> str:
    deadline = time.monotonic() + seconds
    while not (found := live_line(terminal)):
        assert time.monotonic() < deadline, terminal.lines()
        terminal.watch(0.05)
    return found


def stable(lines: list[str]) -> list[str]:
    """Without what differs from run to run: the section of figures, times, and how pytest counted while it collected."""
    if max(map(len, lines)) <= 20:  # pytest takes a terminal this narrow for one of 80, and every line wraps somewhere
        text = re.sub(r"\s|=", "", "".join(lines))
        text = re.sub(r"collecting\.\.\.|collect(ing|ed)\d+items|in\d+\.\d+s", "", text)
        before, after = re.split(r"isolate:\d+tests", text, maxsplit=1)
        return [before, *re.findall(r"\d+(?:failed|passed)", after)]
    section = next((number for number, line in enumerate(lines) if re.match(r"=* ?isolate: \d", line)), len(lines))
    ends = [line for line in lines[section:] if re.search(r"\d (passed|failed)", line)]
    kept = [line for line in lines[:section] if not re.match(r"collect|rootdir", line)]
    return [re.sub(r"\d+\.\d+s|=+|0x\w+", "~", line).strip() for line in (*kept, *ends) if line]


def compared(directory: Path, *args: str, size: tuple[int, int] = (80, 24)) -> tuple[list[str], list[str]]:
    """What is left on the screen, with the line and without it."""
    with on_terminal(directory, *args, size=size) as terminal:
        wait_for_line(terminal)
        status = terminal.end()
        shown = terminal.lines()
    with on_terminal(directory, *args, "--isolate-live=off", size=size) as terminal:
        assert terminal.end() == status
        assert b"\x1b7" not in terminal.written
        return shown, terminal.lines()


@requires("cgroup-memory", "cgroup-cpu")
def test_line_comes_after_a_second_changes_and_goes(tmp_path: Path) -> None:
    with on_terminal(suite(tmp_path), size=(140, 24)) as terminal:
        terminal.expect("test_it.py .")
        terminal.watch(0.7)
        assert live_line(terminal) == ""
        first = wait_for_line(terminal)
        assert re.fullmatch(
            r"isolate: test_it\.py::test_takes_long  call 1 s  memory \d\d\.\d of 64\.0 MiB  cpu \d+% of 50%  timeout in 5\d s  pids 1 of 10",
            first,
        )
        assert 20 < float(re.findall(r"memory ([\d.]+)", first)[0]) < 30
        terminal.watch(1.2)
        assert "call 2 s" in live_line(terminal)
        # pytest's own line is above it, and its cursor where pytest goes on.
        assert terminal.screen is not None
        row = terminal.screen.cursor.y
        assert terminal.screen.display[row].rstrip() == "test_it.py ."
        assert terminal.screen.cursor.x == len("test_it.py .")
        assert LINE.match(terminal.screen.display[row + 1])
        assert terminal.end() == 0
        assert live_line(terminal) == ""
        assert re.search(r"test_it\.py \.\.\. +\[100%\]", "\n".join(terminal.lines()))


@requires("cgroup-memory", "cgroup-cpu")
@pytest.mark.parametrize("size", [(80, 24), (140, 24), (20, 24), (80, 5), (80, 9)], ids=str)
@pytest.mark.parametrize("args", [(), ("-v",), ("-q",), ("-x",)], ids=str)
def test_screen_is_in_the_end_as_it_is_without_the_line(tmp_path: Path, size: tuple[int, int], args: tuple[str, ...]) -> None:
    fails = SLOW.replace("end = time.monotonic() + 3", "end = time.monotonic() + 1.6").replace(
        "def test_after(): pass", "def test_after():\n    print('SAID')\n    assert 0\n\ndef test_last(): pass"
    )
    shown, without = compared(suite(tmp_path, fails), *args, size=size)
    assert stable(shown) == stable(without)


@requires("cgroup-memory")
def test_wide_characters_are_cut_to_the_width(tmp_path: Path) -> None:
    text = "import time\ndef test_検査検査検査検査検査検査検査検査(): time.sleep(1.7)\n"
    with on_terminal(suite(tmp_path, text, "表/test_表表表表表表.py"), size=(62, 24)) as terminal:
        deadline = time.monotonic() + 20
        while not (found := [line for line in terminal.lines() if "call 1 s" in line]):
            assert time.monotonic() < deadline
            terminal.watch(0.05)
        assert found[0].startswith("isolate: 表")
        assert terminal.screen is not None
        assert "call 1 s" in terminal.screen.display[terminal.screen.cursor.y + 1]
        assert terminal.screen.display[terminal.screen.cursor.y + 2].strip() == ""
        assert terminal.end() == 0


@pytest.fixture(params=["root", pytest.param("user", marks=requires("root", "unprivileged-user", "userns"))])
def caller(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, bool]]:
    if request.param == "root":
        yield suite(tmp_path), False
    else:
        with user_directory({"test_it.py": SLOW}) as place:
            yield place, True


def test_line_without_figures_has_the_time(caller: tuple[Path, bool]) -> None:
    """The user has no cgroup here, and so no caps: the marker's are given up."""
    directory, user = caller
    with on_terminal(directory, "--isolate-missing=weaken", size=(80, 24), user=user) as terminal:
        found = wait_for_line(terminal)
        assert re.match(r"isolate: test_\S+  call 1 s  (memory|timeout in 5\d s)", found)
        assert terminal.end() == 0
        assert live_line(terminal) == ""


UNSEEN = {
    "-s": (("-s",), {}),
    "--capture=sys": (("--capture=sys",), {}),
    "dumb": ((), {"TERM": "dumb"}),
    "off": (("--isolate-live=off",), {}),
    "ini": (("-o", "isolate_live=off"), {}),
    "--setup-show": (("--setup-show",), {}),
    "xdist": (("-p", "xdist", "-n1"), {}),
}


@requires("cgroup-memory", "cgroup-cpu")
@pytest.mark.parametrize(("args", "env"), UNSEEN.values(), ids=UNSEEN)
def test_there_is_no_line_where_the_terminal_is_shared_or_nobody_wants_it(
    tmp_path: Path, args: tuple[str, ...], env: dict[str, str]
) -> None:
    with on_terminal(suite(tmp_path), *args, size=(100, 24), env=env) as terminal:
        assert terminal.end() == 0
        assert "call" not in terminal.shown.partition("isolate: 3 tests")[0]
        assert b"\x1b7" not in terminal.written


@requires("cgroup-memory", "cgroup-cpu")
def test_reporter_of_another_plugin_keeps_its_terminal(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        """
import pytest, sys
class Reporter(pytest.TerminalReporter): pass
@pytest.hookimpl(trylast=True)
def pytest_configure(config):
    former = config.pluginmanager.get_plugin("terminalreporter")
    config.pluginmanager.unregister(former)
    config.pluginmanager.register(Reporter(config), "terminalreporter")
"""
    )
    with on_terminal(suite(tmp_path), size=(100, 24)) as terminal:
        assert terminal.end() == 0
        assert b"\x1b7" not in terminal.written


@requires("cgroup-memory", "cgroup-cpu")
def test_colours_only_where_pytest_colours(tmp_path: Path) -> None:
    for env, args, coloured in (({}, (), True), ({"NO_COLOR": "1"}, (), False), ({}, ("--color=no",), False)):
        with on_terminal(suite(tmp_path), *args, size=(100, 24), env=env) as terminal:
            wait_for_line(terminal)
            assert terminal.end() == 0
        drawn = b"".join(re.findall(rb"\x1b7.*?\x1b8", terminal.written, re.DOTALL))
        assert (re.search(rb"\x1b\[\d*m", drawn) is not None) == coloured


def test_line_is_gone_before_a_prompt_and_does_not_come_back_to_it(tmp_path: Path) -> None:
    text = """
import time
def test_fails():
    time.sleep(1.8)
    assert 0
def test_stops():
    time.sleep(1.8)
    breakpoint()
def test_next(): pass
"""
    with on_terminal(suite(tmp_path, text), "--pdb", size=(100, 40)) as terminal:
        wait_for_line(terminal)
        for _ in range(2):
            terminal.expect("(Pdb) ")
            assert live_line(terminal) == ""
            before = len(terminal.written)
            terminal.watch(1.5)
            assert terminal.written[before:] == b""
            terminal.type("p 20 + 3\n")
            terminal.expect("23")
            terminal.expect("(Pdb) ")
            terminal.type("c\n")
        assert terminal.end() == 1
        assert not any(LINE.match(line) for line in terminal.lines())


OUTPUTS = {
    "capsys.disabled": """
def test(capsys):
    time.sleep(1.6)
    for number in range(3):
        with capsys.disabled():
            print(f"SAID {number}")
        time.sleep(0.5)
""",
    "live logging": """
def test():
    for number in range(3):
        time.sleep(1.6)
        logging.getLogger("it").warning("SAID %d", number)
""",
    "subtests": """
def test(subtests):
    for number in range(3):
        with subtests.test(msg=f"SAID {number}"):
            time.sleep(0.8)
            assert number != 1
""",
    "a thread of the test": """
def test(capsys):
    def say():
        time.sleep(1.6)
        with capsys.disabled():
            print("SAID")
    thread = threading.Thread(target=say)
    thread.start()
    time.sleep(2.2)
    thread.join()
""",
    "questions": """
def test(isolate_box):
    for number in range(40):
        isolate_box.usage
        time.sleep(0.05)
""",
}


@pytest.mark.parametrize("what", OUTPUTS)
def test_output_past_the_capturing_meets_no_line(tmp_path: Path, what: str) -> None:
    if what == "subtests" and pytest.version_tuple < (9,):
        pytest.skip("pytest 9 has subtests")
    args = ["-o", "log_cli=true"] if what == "live logging" else []
    shown, without = compared(suite(tmp_path, "import logging, threading, time\n" + OUTPUTS[what]), *args, size=(90, 50))
    assert stable(shown) == stable(without)
    if what not in ("questions", "subtests"):
        assert any("SAID" in line for line in shown)


@requires("plugin-pytest-timeout")
def test_what_pytest_timeout_prints_meets_no_line(tmp_path: Path) -> None:
    text = """
import threading, time
def test():
    threading.Thread(target=time.sleep, args=(5,), daemon=True).start()
    time.sleep(10)
def test_next(): pass
"""
    with on_terminal(suite(tmp_path, text), "-p", "pytest_timeout", "--timeout=2", size=(100, 60)) as terminal:
        wait_for_line(terminal)
        assert terminal.end() == 1
        assert not any(LINE.match(line) for line in terminal.lines())
        assert any("1 failed, 1 passed" in line for line in terminal.lines())


def test_interrupt_takes_the_line_away(tmp_path: Path) -> None:
    with on_terminal(suite(tmp_path, "import time\ndef test(): time.sleep(60)\n"), size=(100, 40)) as terminal:
        wait_for_line(terminal)
        terminal.type("\x03")
        assert terminal.end() == pytest.ExitCode.INTERRUPTED
        assert not any(LINE.match(line) for line in terminal.lines())


def test_test_that_times_out_or_dies_leaves_no_line(tmp_path: Path) -> None:
    text = """
import os, time, pytest
@pytest.mark.isolate(timeout="1.6s")
def test_late(): time.sleep(60)
def test_dies():
    time.sleep(1.6)
    os.kill(os.getpid(), 9)
"""
    with on_terminal(suite(tmp_path, text), size=(100, 60)) as terminal:
        wait_for_line(terminal)
        assert terminal.end() == 1
        assert not any(LINE.match(line) for line in terminal.lines())
        assert any("2 failed" in line for line in terminal.lines())


def test_full_line_of_pytests_is_left_alone(tmp_path: Path) -> None:
    """Where the next character wraps, the cursor can't be moved away and back: nothing is drawn."""
    name = "test_" + "x" * (40 - len("test_it.py::test_ "))
    with on_terminal(suite(tmp_path, f"import time\ndef {name}(): time.sleep(1.6)\n"), "-v", size=(40, 24)) as terminal:
        assert terminal.end() == 0
        assert b"\x1b7" not in terminal.written
        assert any(line.startswith("PASSED") for line in terminal.lines())


def test_few_writes_a_second(tmp_path: Path) -> None:
    with on_terminal(suite(tmp_path, "import time\ndef test(): time.sleep(4)\n"), size=(100, 24)) as terminal:
        assert terminal.end() == 0
        assert 8 <= terminal.written.count(b"\x1b7") <= 13


def test_job_in_the_background_draws_nothing(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        """
import os, signal, subprocess, pytest
@pytest.hookimpl(wrapper=True)
def pytest_runtestloop():
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    own, other = os.getpgrp(), subprocess.Popen(["sleep", "60"], process_group=0)
    terminal = os.open("/dev/tty", os.O_RDWR)
    os.tcsetpgrp(terminal, other.pid)
    try:
        return (yield)
    finally:
        os.tcsetpgrp(terminal, own)
        os.close(terminal)
        other.kill()
        other.wait()
"""
    )
    with on_terminal(suite(tmp_path, "import time\ndef test(): time.sleep(2)\n"), size=(100, 24)) as terminal:
        assert terminal.end() == 0
        assert b"\x1b7" not in terminal.written
