"""Sessions that end early: asked for by a test, by an option, by Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.isolated_runs import run
from tests.support.plain_runs import ROOT, SUITES, both, differences

FILES = sorted(path.name for path in (SUITES / "ends").glob("test_*.py"))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("options", ["", "-x"])
def test_session_ends_as_plainly(tmp_path: Path, name: str, options: str) -> None:
    plain, isolated = both("ends", tmp_path, name, *options.split())
    # Where Ctrl-C or pytest.exit was raised is shown as a place: the pytest process's own is another.
    entries = [[entry for entry in said.entries if entry["kind"] != "interrupt"] for said in (plain, isolated)]
    found = differences(*entries)
    assert not found, "\n".join(found)
    assert isolated.status == plain.status
    ends = [[line for line in said.terminal if line.startswith("===")][-1] for said in (plain, isolated)]
    assert ends[0] == ends[1]
    interrupts = [[(e["type"], e["text"]) for e in said.entries if e["kind"] == "interrupt"] for said in (plain, isolated)]
    assert interrupts[0] == interrupts[1]


SLEEPY = """
import os, signal, time, pytest

@pytest.fixture(scope="module")
def wide():
    yield
    with open(os.environ["NOTES"] + "/wide", "w"): pass

@pytest.fixture
def narrow(wide, notes):
    yield
    {teardown}
    (notes / "narrow").touch()

@pytest.fixture(scope="session")
def notes(tmp_path_factory):
    import pathlib
    return tmp_path_factory.getbasetemp()

def test_sleeps(narrow, notes):
    (notes / "started").touch()
    {sleep}

def test_never(notes):
    (notes / "never").touch()
"""


def interrupted(
    tmp_path: Path, sleep: str, teardown: str = "pass", *, again: bool = False, args: tuple[str, ...] = ()
) -> tuple[int, str, set[str], float]:
    """Run, press Ctrl-C (a SIGINT to pytest alone, as the kernel does where tests are in groups of their own)."""
    suite = tmp_path / "suite"
    suite.mkdir()
    (suite / "test_sleepy.py").write_text(SLEEPY.format(sleep=sleep, teardown=teardown))
    base = tmp_path / "base"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "NOTES": str(base)}
    command = [sys.executable, "-m", "pytest", "-p", "pytest_isolate.plugin", "--isolate-all", f"--basetemp={base}", *args]
    process = subprocess.Popen(command, cwd=suite, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 30
    while not (base / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.1)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    if again:
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    took = time.monotonic() - began
    return process.returncode, out.decode(), {path.name for path in base.iterdir()}, took


def test_interrupt_ends_the_test_lets_it_tear_down_and_ends_the_session(tmp_path: Path) -> None:
    status, out, notes, took = interrupted(tmp_path, "time.sleep(60)")
    assert status == pytest.ExitCode.INTERRUPTED
    assert "KeyboardInterrupt" in out
    assert {"narrow", "wide"} <= notes
    assert "never" not in notes
    assert took < 3


def test_interrupt_of_a_test_that_swallows_it_still_tears_down(tmp_path: Path) -> None:
    sleep = "\n    ".join(["try: time.sleep(60)", "except KeyboardInterrupt: pass"])
    status, _, notes, _ = interrupted(tmp_path, sleep)
    assert status == pytest.ExitCode.INTERRUPTED
    assert {"narrow", "wide"} <= notes
    assert "never" not in notes


def test_interrupt_of_a_test_that_ignores_it_ends_it_after_a_moment(tmp_path: Path) -> None:
    status, _, notes, took = interrupted(tmp_path, "signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)")
    assert status == pytest.ExitCode.INTERRUPTED
    assert "wide" in notes
    assert "narrow" not in notes
    assert took < 8


def test_interrupt_between_set_up_and_call_tears_down_without_the_call(tmp_path: Path) -> None:
    """It comes while the pytest process has the turn: a hook raises it there."""
    suite = tmp_path / "suite"
    suite.mkdir()
    (suite / "conftest.py").write_text(
        "def pytest_runtest_logreport(report):\n    if report.when == 'setup': raise KeyboardInterrupt('between')\n"
    )
    (suite / "test_sleepy.py").write_text(SLEEPY.format(sleep="(notes / 'called').touch()", teardown="pass"))
    base = tmp_path / "base"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "NOTES": str(base)}
    for how in ("--no-isolate", "--isolate-all"):
        command = [sys.executable, "-m", "pytest", "-p", "pytest_isolate.plugin", how, f"--basetemp={base}"]
        done = subprocess.run(command, cwd=suite, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2, done.stdout
        assert "between" in done.stdout
        assert {path.name for path in base.iterdir() if path.is_file()} == {"narrow", "wide"}


def test_second_interrupt_ends_it_at_once(tmp_path: Path) -> None:
    status, _, notes, took = interrupted(tmp_path, "time.sleep(60)", "time.sleep(60)", again=True)
    assert status == pytest.ExitCode.INTERRUPTED
    assert "narrow" not in notes
    assert took < 3


def test_suite_that_waits_for_every_child_takes_nothing_from_the_run(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makeconftest(
        """
        import os, time
        def pytest_runtest_logfinish():
            time.sleep(0.2)  # until the test process has ended
            while os.waitpid(-1, os.WNOHANG)[0]: pass
        """
    )
    pytester.makepyfile(test_it="import pytest\npytestmark = pytest.mark.isolate\ndef test_1(): pass\ndef test_2(): pass")
    done = run(pytester, monkeypatch)
    done.result.assert_outcomes(passed=2)
    assert "Traceback" not in done.output
