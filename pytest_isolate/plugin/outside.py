"""What all test processes of a run share in the pytest process: where they write stacks and refused addresses, the
terminal, and the ones that are still on their way out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from pytest_isolate.model.spec import Spec
from pytest_isolate.plugin import private
from pytest_isolate.plugin.crash import CrashFile, FaultTimer
from pytest_isolate.plugin.forwarding import Forwarder
from pytest_isolate.plugin.inputs import Missed
from pytest_isolate.plugin.keeping import Keeping
from pytest_isolate.plugin.measured import Measured
from pytest_isolate.plugin.refusals import Refusals, blocks
from pytest_isolate.plugin.settings import settings_key
from pytest_isolate.plugin.status import Status, shows_lines, status_key

if TYPE_CHECKING:
    from pytest_isolate.plugin.live import Live

__all__ = ["Outside"]


@dataclass(slots=True)
class Outside:
    """What all attempts of a run share in the pytest process.

    Attributes:
        crash: where test processes write their stacks.
        refusals: where they note addresses.
        missed: where they note what of the project isn't shown.
        timer: pytest's faulthandler_timeout.
        terminal: descriptor of the controlling terminal, -1 without one.
        foreground: test processes read from the terminal all the time (``-s``), not only at a prompt.
        measured: coverage, if any is measured.
        unreaped: pids of test processes that nobody has waited for.
        forwarder: of servers that wide fixtures run.
        keeping: of the files that tests wrote; None where nothing is kept.
        sample: seconds between two samples of a sandbox; 0: none are taken.
        live: the line on the terminal; None where there is none.
        status: what answers SIGUSR1; None where nobody does.
    """

    crash: CrashFile
    refusals: Refusals
    timer: FaultTimer
    terminal: int
    foreground: bool
    measured: Measured | None = None
    unreaped: list[int] = field(default_factory=list)
    forwarder: Forwarder = field(default_factory=Forwarder)
    keeping: Keeping | None = None
    missed: Missed = field(default_factory=Missed)
    sample: float = 0.0
    live: Live | None = None
    status: Status | None = None

    @classmethod
    def of(cls, config: pytest.Config, places: Callable[[], Sequence[str]]) -> Outside:
        terminal = _controlling_terminal()
        foreground = terminal >= 0 and getattr(config.option, "capture", "fd") == "no"
        timer = FaultTimer(*private.faulthandler_settings(config))
        made = cls(CrashFile(), Refusals(), timer, terminal, foreground, keeping=Keeping.of(config, places))
        made.sample = config.stash[settings_key].sample
        made.status = config.stash.get(status_key, None)
        if shows_lines(config):
            from pytest_isolate.plugin.live import Live

            made.live = Live(config)
        return made

    def clear(self) -> None:
        """Before a fork: forget what the test before has left."""
        self.crash.clear()
        self.refusals.clear()
        self.missed.clear()

    def watch(self, spec: Spec, rootdir: str) -> None:
        """In the child: from now on what its sandbox refuses or hides is noted."""
        if blocks(spec):
            self.refusals.install()
        self.missed.install(spec, rootdir)

    def leave(self) -> None:
        """In the child: what is the pytest process's business alone."""
        self.forwarder.leave()
        if self.status is not None:
            self.status.leave()
        if self.live is not None:
            self.live.leave()

    def leave_terminal(self, attempt: object) -> None:
        """To the test of `attempt`, which writes to it itself; None: no more."""
        if self.live is not None:
            self.live.stop(attempt)

    def reap(self, flags: int = os.WNOHANG) -> None:
        """Wait for test processes that gave all their reports and were on their way out then."""
        self.unreaped[:] = [pid for pid in self.unreaped if not _has_ended(pid, flags)]

    def close(self) -> None:
        self.reap(0)
        self.forwarder.end()
        self.crash.close()
        self.refusals.close()
        self.missed.close()
        if self.live is not None:
            self.live.close()
        if self.terminal >= 0:
            os.close(self.terminal)


def _has_ended(pid: int, flags: int) -> bool:
    try:
        return os.waitpid(pid, flags)[0] != 0
    except ChildProcessError:  # the suite waits for every child, or Ctrl-C came between its end and the note of it
        return True


def _controlling_terminal() -> int:
    """A descriptor of it, -1 where there is none or another process group has it (a job in the background)."""
    try:
        fd = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return -1
    with suppress(OSError):
        if os.tcgetpgrp(fd) == os.getpgrp():
            return fd
    os.close(fd)
    return -1
