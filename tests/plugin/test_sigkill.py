"""SIGKILL at random moments, of pytest, of its builder, of an init: nothing of the run stays on the machine."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.capabilities import requires
from tests.support.remains import builder_of, inits_of, remains_of

pytestmark = requires("root", "cgroup-memory")

ROOT = Path(__file__).parents[2]
MOMENTS = 50

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


def _start(directory: Path, token: str) -> subprocess.Popen[bytes]:
    options = [
        "-q",
        "--isolate-all",
        "--isolate-memory=256MiB",
        "--isolate-cpu=2",
        "-p",
        "no:cacheprovider",
        f"--basetemp={directory / 'base'}",
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", *options],
        cwd=directory,
        env={**os.environ, "ISOLATE_TEST_TOKEN": token},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _processes_with(token: str) -> set[str]:
    """Processes that inherited the token from the run, zombies aside (they have no environment any more)."""
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                environment = Path(f"/proc/{name}/environ").read_bytes()
            except OSError:
                continue
            if f"ISOLATE_TEST_TOKEN={token}".encode() in environment:
                found.add(f"process {name}")
    return found


def _left(pid: int, token: str) -> set[str]:
    deadline = time.monotonic() + 10
    while (left := remains_of(pid) | _processes_with(token)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    (tmp_path / "test_suite.py").write_text(SUITE)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    return tmp_path


def test_pytest_killed_at_fifty_random_moments_leaves_nothing(suite: Path) -> None:
    whole = _start(suite, "whole")
    started = time.monotonic()
    assert whole.wait(120) == 0
    duration = time.monotonic() - started
    moments = random.Random(50)
    for number in range(MOMENTS):
        token = f"{os.getpid()}-{number}"
        process = _start(suite, token)
        time.sleep(moments.uniform(0, min(duration, 2.5)))
        process.kill()
        process.wait()
        left = _left(process.pid, token)
        assert not left, f"round {number}"


@pytest.mark.parametrize("victim", ["builder", "init"])
def test_builder_or_init_killed_is_reported_and_the_next_test_runs(suite: Path, victim: str) -> None:
    moments = random.Random(victim)
    killed = 0
    for number in range(5):
        token = f"{os.getpid()}-{victim}-{number}"
        process = _start(suite, token)
        deadline = time.monotonic() + 20
        find = builder_of if victim == "builder" else inits_of
        while not find(process.pid) and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.5))
        for pid in find(process.pid)[:1]:
            try:
                os.kill(pid, signal.SIGKILL)
                killed += 1
            except ProcessLookupError:
                pass
        assert process.wait(120) in (0, 1), "pytest came to its end"
        assert not _left(process.pid, token)
    assert killed
