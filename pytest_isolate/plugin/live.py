"""The line on the terminal about a test that takes longer than a moment, below pytest's own.

pytest's cursor stands behind what it has written of its progress, and has to stand there again whenever pytest, or anything
else, goes on writing. So a row is made below it (IND, which scrolls at the bottom and keeps the column), the cursor is saved, the
line written, and the cursor put back; taking the line away is erasing from the cursor to the end of the screen. Each is
one write(2). Nothing is drawn by a thread: `Attempt` asks while it waits for the test process.

What is written past pytest's capturing meanwhile comes with a suspension of it, here or in the test process; both take the
line away first (`private.before_capture_is_suspended`, `private.before_capture_is_left`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_isolate.plugin import private
from pytest_isolate.plugin.status import status_key

if TYPE_CHECKING:
    from pytest_isolate.plugin.attempt import Attempt

__all__ = ["Live"]

_AFTER: Final = 1.0
"""Seconds of a test that nothing is shown of."""

_EVERY: Final = 0.25

_BEGIN: Final = "\x1bD\x1b[A\x1b7\r\x1b[B"
_END: Final = "\x1b[K\x1b8"
_ERASE: Final = b"\x1b[J"


class Live:
    """The line. It is pytest's terminal reporter's terminal; see `status.shows_lines`."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._writer: Any = config.get_terminal_writer()
        self._terminal = private.terminal_descriptor(config)
        self._encoding = private.stream_encoding(self._writer)
        self._stopped: object = None
        self._shown = False
        self._last = 0.0
        self._before: tuple[Attempt | None, float, float] = None, 0.0, 0.0
        self._undo: Callable[[], None] | None = None
        if (status := config.stash.get(status_key, None)) is not None:
            status.before_writing = self.erase

    def draw(self, attempt: Attempt) -> float | None:
        """Show what the test of `attempt` uses, if it is time; after how many seconds it is time again, None: never."""
        if attempt is self._stopped or self._terminal < 0 or (now := attempt.now) is None:
            return None
        due = max(now[2] + _AFTER, self._last + _EVERY) - time.perf_counter()
        if due > 0:
            return due
        self._last = time.perf_counter()
        with suppress(OSError):  # a terminal that is gone
            if (width := self._room()) > 0:
                self._show(attempt, width)
        return _EVERY

    def _room(self) -> int:
        """Cells for the line; 0 where it can't be shown now."""
        size = os.get_terminal_size(self._terminal)
        width = size.columns or self._writer.fullwidth
        begun = self._writer.width_of_current_line
        # A line that is just full: terminals remember that the next character wraps, and forget it when the cursor moves.
        full = bool(begun) and begun % width == 0
        in_front = os.tcgetpgrp(self._terminal) == os.getpgrp()
        return 0 if full or size.lines == 1 or not in_front else width - 1

    def _show(self, attempt: Attempt, width: int) -> None:
        from pytest_isolate.plugin.running import running_test
        from pytest_isolate.report.lines import Style
        from pytest_isolate.report.live import line

        if (running := running_test(attempt)) is None:
            return
        spans = line(
            replace(running, busy=self._busy(attempt, running.seconds, running.cpu_seconds)), Style(width, self._encoding)
        )
        text = "".join(self._writer.markup(text, **dict.fromkeys(styles, True)) if styles else text for text, styles in spans)
        if self._undo is None:
            self._undo = private.before_capture_is_suspended(self._config, self.erase)
        # Twice, because the handler of SIGUSR1 may erase it between any two of these lines.
        self._shown = True
        os.write(self._terminal, f"{_BEGIN}{text}{_END}".encode(self._encoding, "backslashreplace"))
        self._shown = True

    def _busy(self, attempt: Attempt, seconds: float, cpu: float | None) -> float | None:
        """CPUs in use since the line before, or since the test's beginning."""
        former, before, used = self._before
        if cpu is None:
            return None
        if former is not attempt:
            before = used = 0.0
        self._before = attempt, seconds, cpu
        return max(cpu - used, 0.0) / (seconds - before)

    def erase(self) -> None:
        """Take the line away, if there is one."""
        if not self._shown:
            return
        with suppress(OSError):
            os.write(self._terminal, _ERASE)
        self._shown = False
        if (undo := self._undo) is not None:
            self._undo = None
            undo()

    def stop(self, attempt: object) -> None:
        """Show nothing of this attempt, whose test writes to the terminal itself; None: it has written."""
        self.erase()
        self._stopped = attempt

    def leave(self) -> None:
        """In a test process."""
        self.close()

    def close(self) -> None:
        if self._terminal >= 0:
            os.close(self._terminal)
            self._terminal = -1
