"""Timing: variants take turns, round by round, so that a slow moment of the machine hits all of them alike."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

__all__ = ["Command", "Row", "interleaved", "timed"]

Command = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One line of the result.

    Attributes:
        what: the scenario.
        figures: named measurements, with their units.
        result: what is held against the target.
        target: in words; empty: reported only.
        met: None: reported only.
    """

    what: str
    figures: Mapping[str, str]
    result: str
    target: str = ""
    met: bool | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def verdict(self) -> str:
        return {True: "met", False: "MISSED", None: "–"}[self.met]


_ENVIRON: Final = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""With it, pytest compiles every plugin anew in each run: 15 ms more for ours, which is what would be measured."""


def timed(argv: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None, user: int | None = None, status: int = 0) -> None:
    """Run a command to its end; its output is shown only where it fails. Raises subprocess.CalledProcessError."""
    done = subprocess.run(
        argv,
        cwd=cwd,
        env={**_ENVIRON, **(env or {})} if user is None else dict(env or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
    )
    if done.returncode != status:
        print(done.stdout, file=sys.stderr)
        done.check_returncode()


def interleaved(commands: Mapping[str, Command], rounds: int) -> dict[str, float]:
    """Median wall seconds per command, after one unmeasured round."""
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, command in commands.items():
            start = time.perf_counter()
            command()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}
