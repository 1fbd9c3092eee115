"""pytest on a terminal of its own: a session leader on a pseudo-terminal, as a shell starts it, and what is typed there.

What somebody sees in front of it is told by `screen`: a terminal emulator that has obeyed everything that was written.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import sys
import termios
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pyte

from tests.support.unprivileged import USER_ID, find_python, package_tree

__all__ = ["Terminal", "on_terminal"]

ROOT = Path(__file__).parents[2]


class Terminal:
    """
    Attributes:
        shown: everything that was written to the terminal so far, without colours.
        written: the same as it came.
        screen: the emulator's, where one was asked for; `lines` reads it.
    """

    def __init__(self, fd: int, pid: int, screen: pyte.HistoryScreen | None = None) -> None:
        self.shown = ""
        self.written = b""
        self.screen = screen
        self._stream = pyte.ByteStream(screen) if screen is not None else None
        self.pid = pid
        self._fd = fd
        self._seen = 0

    def expect(self, text: str, seconds: float = 30) -> str:
        """Wait until `text` is written after what was expected before; what came until then. Raises AssertionError."""
        deadline = time.monotonic() + seconds
        while (found := self.shown.find(text, self._seen)) < 0:
            if not self._read(deadline - time.monotonic()):
                raise AssertionError(f"{text!r} was not written; instead:\n{self.shown[self._seen :]}")
        before = self.shown[self._seen : found]
        self._seen = found + len(text)
        return before

    def watch(self, seconds: float) -> None:
        """Take in what is written for so long."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if not self._read(left):
                time.sleep(0.01)

    def lines(self) -> list[str]:
        """What has scrolled off the screen, and what is on it, without empty lines at the end."""
        assert self.screen is not None
        above = ["".join(row[column].data for column in range(self.screen.columns)) for row in self.screen.history.top]
        found = [line.rstrip() for line in (*above, *self.screen.display)]
        while found and not found[-1]:
            found.pop()
        return found

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def foreground(self) -> int:
        """The process group that the terminal belongs to."""
        return os.tcgetpgrp(self._fd)

    def end(self, seconds: float = 30) -> int:
        """Wait for the end; the exit status."""
        deadline = time.monotonic() + seconds
        while self._read(deadline - time.monotonic()):
            pass
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.02)
        raise AssertionError(f"pytest did not end:\n{self.shown[-3000:]}")

    def _read(self, seconds: float) -> bool:
        ready, _, _ = select.select([self._fd], [], [], max(seconds, 0))
        if not ready:
            return False
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # EIO: nobody has the other side open any more
            return False
        self.written += data
        if self._stream is not None:
            self._stream.feed(data)
        self.shown += re.sub("\x1b\\[[0-9;?]*[A-Za-z]|\x1b[78D]|\r", "", data.decode(errors="replace"))
        return bool(data)


@contextmanager
def on_terminal(
    directory: Path, *args: str, size: tuple[int, int] | None = None, user: bool = False, env: Mapping[str, str] | None = None
) -> Iterator[Terminal]:
    """pytest with the plugin, every test isolated, on a terminal.

    Args:
        size: columns and lines of an xterm that is emulated; None: a dumb terminal of 120 columns.
        user: as the unprivileged user, whose `directory` is.
        env: added to the environment; an empty value takes a name out of it.
    """
    python, tree = (str(find_python()), str(package_tree())) if user else (sys.executable, str(ROOT))
    command = [python, "-m", "pytest", "-p", "pytest_isolate.plugin", "--isolate-all", "-p", "no:cacheprovider", *args]
    own = {"TERM": "dumb", "COLUMNS": "120"} if size is None else {"TERM": "xterm-256color", "COLUMNS": "", "LINES": ""}
    own |= {"PYTHONPATH": tree, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "LC_ALL": "C.UTF-8", "NO_COLOR": "", "FORCE_COLOR": ""}
    whole = {**os.environ, **own, **(env or {})}
    pid, fd = pty.fork()
    if pid == 0:
        try:
            if size is not None:
                termios.tcsetwinsize(0, (size[1], size[0]))
            if user and os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(USER_ID, USER_ID, USER_ID)
                os.setresuid(USER_ID, USER_ID, USER_ID)
            os.chdir(directory)
            os.execve(python, command, {name: value for name, value in whole.items() if value})
        finally:
            os._exit(127)
    attributes = termios.tcgetattr(fd)
    attributes[3] &= ~termios.ECHO
    termios.tcsetattr(fd, termios.TCSANOW, attributes)
    fcntl.fcntl(fd, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    terminal = Terminal(fd, pid, pyte.HistoryScreen(*size, history=10_000) if size is not None else None)
    try:
        yield terminal
    finally:
        os.close(fd)
        if terminal.pid:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
