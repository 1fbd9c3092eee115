"""SIGUSR1: what is running and what it uses, printed to standard error at once, wherever pytest is.

The signal is ours only as long as nobody else has a use for it: it is taken where its disposition is the default one (which
would end pytest), and given back at the end. A suite, a plugin or `faulthandler.register` that takes it before or after keeps it. The
handler runs between two steps of whatever the main thread does, so it writes with one write(2) and touches no stream.

Under xdist each worker answers for itself. The controller, which is what people know the pid of, passes the signal on to the
workers that have told it, with their first report, that they answer. Where every test is isolated it takes it from the start.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import pytest

from pytest_isolate.kernel.signals import handler_of
from pytest_isolate.plugin import private
from pytest_isolate.plugin.settings import settings_key

__all__ = ["Status", "Workers", "register", "shows_lines", "status_key"]

_SIGNAL: Final = signal.SIGUSR1
_DEFAULT: Final = 0


class Status:
    """The answer of this process.

    Args:
        tell: what to say; called in the handler.

    Attributes:
        before_writing: to be called before the terminal is written to.
    """

    def __init__(self, config: pytest.Config, tell: Callable[[], str]) -> None:
        self._config = config
        self._tell = tell
        self._process = os.getpid()
        self.before_writing: Callable[[], object] | None = None
        with private.without_capture(config):
            self._stderr = os.dup(2)
        self._shares = _shares_the_terminal(config, self._stderr)
        signal.signal(_SIGNAL, self._answer)
        signal.siginterrupt(_SIGNAL, False)
        self._handler = handler_of(_SIGNAL)

    def _answer(self, number: int, _frame: object) -> None:
        if os.getpid() != self._process:
            # A process that a fixture or a thread forked: there the signal does what it would have done without us.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        with suppress(Exception):  # of a sandbox that ends at this moment; whatever it is, it must not reach the code that runs
            text = self._tell()
            if self.before_writing is not None:
                self.before_writing()
            if text:
                os.write(self._stderr, self._placed(text).encode(errors="backslashreplace"))

    def _placed(self, text: str) -> str:
        """On lines of its own; what pytest had written of its line is written again behind it, where that goes on."""
        if hasattr(self._config, "workerinput"):  # the line is the controller's
            return f"\n{text}" if os.isatty(self._stderr) else text
        begun = private.current_line(self._config) if self._shares else ""
        return f"\n{text}{begun}" if begun else text

    @property
    def in_force(self) -> bool:
        """Whether the signal still comes here."""
        # faulthandler.register leaves Python's own note of the handler as it was, signal.signal the kernel's.
        return signal.getsignal(_SIGNAL) == self._answer and handler_of(_SIGNAL) == self._handler

    def leave(self) -> None:
        """In a test process: the signal is as it was before, and whatever the test makes of it."""
        self._give_back()
        os.close(self._stderr)

    def _give_back(self) -> None:
        if self.in_force:
            signal.signal(_SIGNAL, signal.SIG_DFL)

    def pytest_unconfigure(self) -> None:
        if os.getpid() == self._process:
            self._give_back()
            os.close(self._stderr)


def _shares_the_terminal(config: pytest.Config, stderr: int) -> bool:
    """Whether standard error is the file, or the terminal, that pytest writes its progress to."""
    if (terminal := private.terminal_descriptor(config)) < 0:
        return False
    try:
        return os.path.sameopenfile(terminal, stderr)
    finally:
        os.close(terminal)


status_key: Final = pytest.StashKey[Status]()
"""On ``config.stash`` while SIGUSR1 is answered here."""


def register(config: pytest.Config, tell: Callable[[], str]) -> None:
    """Answer from now on, unless the run doesn't want it or the signal is somebody else's."""
    if config.stash[settings_key].live == "off" or status_key in config.stash:
        return
    if threading.current_thread() is not threading.main_thread() or handler_of(_SIGNAL) != _DEFAULT:
        return
    status = config.stash[status_key] = Status(config, tell)
    config.pluginmanager.register(status, "isolate-status")


class Workers:
    """In xdist's controller: those of its workers that answer. From now on it answers, too."""

    def __init__(self, config: pytest.Config) -> None:
        self._pids: dict[int, None] = {}
        register(config, self._pass_on)

    def add(self, pid: int) -> None:
        self._pids[pid] = None

    def _pass_on(self) -> str:
        answering = [pid for pid in self._pids if _answers(pid)]
        for pid in answering:
            os.kill(pid, _SIGNAL)
        return "" if answering else "isolate: no worker has begun an isolated test\n"


def _answers(pid: int) -> bool:
    """Whether it is a child of this process (a number can be another process's by now) and catches the signal."""
    with suppress(OSError, KeyError, ValueError), open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        fields = dict(line.split(":", 1) for line in file if ":" in line)
        return int(fields["PPid"]) == os.getpid() and bool(int(fields["SigCgt"], 16) >> (_SIGNAL - 1) & 1)
    return False


def shows_lines(config: pytest.Config) -> bool:
    """Whether a line about the running test can be shown: on pytest's own terminal, with nothing of the test's beside it."""
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    option = config.option
    return (
        # Plugins that replace the reporter draw lines of their own.
        type(reporter) is pytest.TerminalReporter
        and bool(getattr(reporter, "isatty", False))
        and config.stash[settings_key].live != "off"
        and os.environ.get("TERM", "dumb") not in ("", "dumb")
        and getattr(option, "capture", "no") == "fd"
        and config.pluginmanager.hasplugin("capturemanager")
        and not getattr(option, "setupshow", False)
    )
