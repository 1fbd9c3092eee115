"""SIGKILL at random moments, of pytest, of its builder, of an init: nothing of the run stays on the machine."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.capabilities import requires
from tests.support.reaper import Reaper
from tests.support.remains import builder_of, inits_of

pytestmark = requires("root", "cgroup-memory")

ROOT = Path(__file__).parents[2]
MOMENTS, PARTS = 50, 5

SUITE = """
import os, subprocess, time
import pytest

@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    yield tmp_path_factory.mktemp("wide")

@pytest.mark.parametrize("number", range(40))
def test_something(number, tmp_path, wide):
    (tmp_path / "file").write_text("x" * 10000)
    subprocess.Popen(["sleep", "1000"])
    time.sleep(number % 4 * 0.01)
"""


def _start(directory: Path) -> tuple[subprocess.Popen[bytes], Reaper]:
    options = [
        "-q",
        "--isolate-all",
        "--isolate-memory=256MiB",
        "--isolate-cpu=2",
        "-p",
        "no:cacheprovider",
        f"--basetemp={directory / 'base'}",
        "-p",
        "pytest_isolate.plugin",
    ]
    # The moments are to be those of a run, not of the import of every plugin that is installed.
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    reaper = Reaper(sys.executable, directory, seconds=10)
    process = subprocess.Popen(
        [*reaper.begin, sys.executable, "-m", "pytest", *options],
        cwd=directory,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return process, reaper


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    (tmp_path / "test_suite.py").write_text(SUITE)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    return tmp_path


@pytest.mark.parametrize("part", range(PARTS))
def test_pytest_killed_at_random_moments_leaves_nothing(suite: Path, part: int) -> None:
    whole, reaper = _start(suite)
    assert reaper.pid
    started = time.monotonic()
    assert whole.wait(120) == 0
    duration = time.monotonic() - started
    moments = random.Random(part)
    for number in range(MOMENTS // PARTS):
        process, reaper = _start(suite)
        pytest_pid = reaper.pid
        time.sleep(moments.uniform(0, min(duration, 2.5)))
        with suppress(ProcessLookupError):  # it was faster than the run whose time was taken
            os.kill(pytest_pid, signal.SIGKILL)
        assert process.wait(60) in (-signal.SIGKILL, 0)
        assert not reaper.left(), f"round {number}"


@pytest.mark.parametrize("victim", ["builder", "init"])
def test_builder_or_init_killed_is_reported_and_the_next_test_runs(suite: Path, victim: str) -> None:
    moments = random.Random(victim)
    killed = 0
    for _ in range(5):
        process, reaper = _start(suite)
        deadline = time.monotonic() + 20
        find = builder_of if victim == "builder" else inits_of
        while not find(reaper.pid) and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.5))
        for pid in find(reaper.pid)[:1]:
            try:
                os.kill(pid, signal.SIGKILL)
                killed += 1
            except ProcessLookupError:
                pass
        assert process.wait(120) in (0, 1), "pytest came to its end"
        assert not reaper.left()
    assert killed
