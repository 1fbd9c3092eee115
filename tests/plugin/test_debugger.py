"""Prompts inside a sandbox: --pdb, --trace, breakpoint(), and tests that read the terminal."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.terminals import on_terminal

FAILING = """
import os, pytest

@pytest.fixture(scope="module")
def wide():
    yield 1
    print("WIDE DOWN")

@pytest.fixture
def narrow(wide):
    yield
    print("NARROW DOWN")

def test_fails(narrow):
    where = os.readlink("/proc/self/ns/pid")
    secret = "in" + "side"
    assert 0

def test_next():
    pass
"""


def suite(tmp_path: Path, text: str) -> Path:
    (tmp_path / "test_it.py").write_text(text)
    return tmp_path


def test_pdb_prompt_is_inside_with_the_tests_frame_and_the_session_goes_on(tmp_path: Path) -> None:
    with on_terminal(suite(tmp_path, FAILING), "--pdb") as terminal:
        before = terminal.expect("(Pdb) ")
        assert "entering PDB" in before
        assert "test_it.py F" in terminal.shown
        terminal.type("p secret\n")
        terminal.expect("'inside'")
        terminal.expect("(Pdb) ")
        terminal.type("p os.getpid() < 100, where == os.readlink('/proc/self/ns/pid')\n")
        terminal.expect("(True, True)")
        terminal.expect("(Pdb) ")
        terminal.type("c\n")
        assert terminal.end() == 1
    assert "1 failed, 1 passed" in terminal.shown


def test_quit_at_the_prompt_ends_the_session(tmp_path: Path) -> None:
    with on_terminal(suite(tmp_path, FAILING), "--pdb") as terminal:
        terminal.expect("(Pdb) ")
        terminal.type("q\n")
        assert terminal.end() == pytest.ExitCode.INTERRUPTED
    assert "Quitting debugger" in terminal.shown
    assert "1 failed in" in terminal.shown


def test_interrupt_at_the_prompt_reaches_the_debugger_and_not_pytest(tmp_path: Path) -> None:
    with on_terminal(suite(tmp_path, FAILING), "--pdb") as terminal:
        terminal.expect("(Pdb) ")
        time.sleep(0.5)  # CPython's readline misses a signal between writing the prompt and waiting for a key
        terminal.type("\x03")
        terminal.expect("(Pdb) ")
        terminal.type("c\n")
        assert terminal.end() == 1
    assert "1 failed, 1 passed" in terminal.shown


@pytest.mark.parametrize("args", [(), ("-s",), ("--capture=sys",)])
def test_breakpoint_stops_inside_with_no_option_at_all(tmp_path: Path, args: tuple[str, ...]) -> None:
    text = "def test_stops():\n    number = 41\n    breakpoint()\n    assert number == 42\n\ndef test_next(): pass\n"
    with on_terminal(suite(tmp_path, text), *args) as terminal:
        terminal.expect("(Pdb) ")
        terminal.type("number = 42\n")
        terminal.expect("(Pdb) ")
        terminal.type("c\n")
        assert terminal.end() == 0
    assert "2 passed" in terminal.shown


def test_trace_stops_at_the_start_of_each_test(tmp_path: Path) -> None:
    with on_terminal(suite(tmp_path, "def test_1():\n    a = 1\n\ndef test_2():\n    b = 2\n"), "--trace") as terminal:
        for name in ("test_1", "test_2"):
            assert name in terminal.expect("(Pdb) ")
            terminal.type("c\n")
        assert terminal.end() == 0


def test_pdb_at_errors_in_setup_and_teardown(tmp_path: Path) -> None:
    text = """
import pytest

@pytest.fixture
def early():
    raise ValueError("early")

@pytest.fixture
def late():
    yield
    raise ValueError("late")

def test_early(early): pass
def test_late(late): pass
"""
    with on_terminal(suite(tmp_path, text), "--pdb") as terminal:
        for name in ("early", "late"):
            assert f"ValueError: {name}" in terminal.expect("(Pdb) ")
            terminal.type("c\n")
        assert terminal.end() == 1
    assert "1 passed, 2 errors" in terminal.shown


def test_timeout_of_the_spec_does_not_run_at_a_prompt(tmp_path: Path) -> None:
    with on_terminal(suite(tmp_path, FAILING), "--pdb", "--isolate-timeout=1s") as terminal:
        terminal.expect("(Pdb) ")
        with pytest.raises(AssertionError):
            terminal.expect("timeout", seconds=2.5)
        terminal.type("c\n")
        assert terminal.end() == 1
    assert "timeout of" not in terminal.shown


def test_test_reads_what_is_typed_with_capturing_off(tmp_path: Path) -> None:
    text = "def test_reads():\n    assert input('say: ') == 'hello'\n\ndef test_again():\n    assert input('more: ') == 'you'\n"
    with on_terminal(suite(tmp_path, text), "-s") as terminal:
        terminal.expect("say: ")
        terminal.type("hello\n")
        terminal.expect("more: ")
        terminal.type("you\n")
        assert terminal.end() == 0
    assert "2 passed" in terminal.shown


def test_interrupt_typed_at_a_running_test_ends_the_session(tmp_path: Path) -> None:
    text = "import time\n\ndef test_sleeps():\n    print('READY')\n    time.sleep(60)\n\ndef test_never(): pass\n"
    for args in ((), ("-s",)):
        with on_terminal(suite(tmp_path, text), *args) as terminal:
            terminal.expect("READY" if args else "test_it.py ")
            terminal.type("\x03")
            assert terminal.end() == pytest.ExitCode.INTERRUPTED
        assert "KeyboardInterrupt" in terminal.shown


def test_terminal_belongs_to_pytest_again_after_each_test(tmp_path: Path) -> None:
    text = "def test_1():\n    input('one: ')\n\ndef test_2():\n    input('two: ')\n"
    with on_terminal(suite(tmp_path, text), "-s") as terminal:
        pytest_group = terminal.foreground()
        terminal.expect("one: ")
        assert terminal.foreground() != pytest_group
        terminal.type("\n")
        terminal.expect("two: ")
        terminal.type("\n")
        terminal.expect("2 passed")
        assert terminal.end() == 0
