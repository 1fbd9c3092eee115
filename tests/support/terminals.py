"""pytest on a terminal of its own: a session leader on a pseudo-terminal, as a shell starts it, and what is typed there."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Terminal", "on_terminal"]

ROOT = Path(__file__).parents[2]


class Terminal:
    """Attributes: `shown`, everything that was written to the terminal so far, without colours."""

    def __init__(self, fd: int, pid: int) -> None:
        self.shown = ""
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
        self.shown += re.sub("\x1b\\[[0-9;?]*[A-Za-z]|\r", "", data.decode(errors="replace"))
        return bool(data)


@contextmanager
def on_terminal(directory: Path, *args: str) -> Iterator[Terminal]:
    """pytest with the plugin, every test isolated, on a terminal."""
    command = [sys.executable, "-m", "pytest", "-p", "pytest_isolate.plugin", "--isolate-all", "-p", "no:cacheprovider", *args]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "TERM": "dumb", "COLUMNS": "120"}
    pid, fd = pty.fork()
    if pid == 0:
        try:
            os.chdir(directory)
            os.execve(sys.executable, command, env)
        finally:
            os._exit(127)
    attributes = termios.tcgetattr(fd)
    attributes[3] &= ~termios.ECHO
    termios.tcsetattr(fd, termios.TCSANOW, attributes)
    fcntl.fcntl(fd, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    terminal = Terminal(fd, pid)
    try:
        yield terminal
    finally:
        os.close(fd)
        if terminal.pid:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
