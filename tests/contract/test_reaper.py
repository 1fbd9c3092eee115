"""What other tests trust in: `tests.support.reaper` finds what a run leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.reaper import Reaper


def run(reaper: Reaper, script: str) -> int:
    return subprocess.run([*reaper.begin, "sh", "-c", script], check=False, timeout=30).returncode


def test_orphan_that_stays_is_named(tmp_path: Path) -> None:
    reaper = Reaper(sys.executable, tmp_path, seconds=0.2)
    assert run(reaper, "setsid sh -c 'sleep 1011 & exec sleep 1012' & exit 3") == 3
    found = {line.partition(" sleep ")[2]: int(line.split()[1]) for line in reaper.left()}
    for pid in found.values():
        os.kill(pid, signal.SIGKILL)
    assert sorted(found) == ["1011", "1012"]


def test_orphan_that_ends_in_time_is_waited_for(tmp_path: Path) -> None:
    reaper = Reaper(sys.executable, tmp_path)
    assert run(reaper, "(sleep 0.3; touch ended) &") == 0
    assert (Path("ended").exists(), reaper.left()) == (True, set())


def test_signal_is_passed_on(tmp_path: Path) -> None:
    reaper = Reaper(sys.executable, tmp_path)
    assert run(reaper, "kill -KILL $$") == -signal.SIGKILL
    assert not reaper.left()


def test_directory_named_after_the_run_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reaper = Reaper(sys.executable, tmp_path, seconds=0.2)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert run(reaper, f"mkdir {tmp_path}/pytest-isolate-$$-1") == 0
    assert reaper.left() == {f"{tmp_path}/pytest-isolate-{reaper.pid}-1"}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
