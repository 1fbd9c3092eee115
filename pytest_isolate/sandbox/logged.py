"""A program in a sandbox whose output goes to files, to be read at any time, also while it runs.

Files and not pipes: nobody has to keep reading, so that the program never blocks on its output and pytest needs no thread,
which a fork would lose. They are nameless files of the temporary directory; a memfd would be charged to the memory of
the sandbox, whose processes write it.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
from collections.abc import Sequence
from typing import IO, Final

from pytest_isolate.sandbox.process import Process
from pytest_isolate.sandbox.sandbox import Sandbox

__all__ = ["Logged"]

_CHUNK: Final = 1 << 20
_SHOWN: Final = 100


class Logged:
    """A program, and what it has written.

    Args:
        data: what it reads on standard input; None: nothing.
        joined: standard error goes where standard output does.

    Raises:
        SetupError: the sandbox could not be joined.
        OSError: the program could not be executed.
    """

    def __init__(
        self, box: Sandbox, args: Sequence[str], *, cwd: str | None = None, data: bytes | None = None, joined: bool = True
    ) -> None:
        self._out = _file()
        self._err = None if joined else _file()
        stdin = _holding(data) if data is not None else -1
        try:
            self.process: Process = box.popen(
                args,
                stdin=stdin if stdin >= 0 else subprocess.DEVNULL,
                stdout=self._out,
                stderr=subprocess.STDOUT if self._err is None else self._err,
                cwd=cwd,
            )
        except BaseException:
            self.close()
            raise
        finally:
            if stdin >= 0:
                os.close(stdin)

    @property
    def args(self) -> list[str]:
        return self.process.args

    def output(self) -> bytes:
        """Standard output so far, with standard error if they are joined."""
        return _content(self._out)

    def errors(self) -> bytes:
        """Standard error so far; empty if it is joined."""
        return _content(self._err) if self._err is not None else b""

    def tail(self, size: int) -> bytes:
        """The last bytes of `output`, at most `size`."""
        fd = self._out.fileno()
        return os.pread(fd, size, max(0, os.fstat(fd).st_size - size))

    def kill(self, within: float) -> bool:
        """SIGKILL it and wait for its end, so many seconds at most; whether it has ended."""
        self.process.send_signal(signal.SIGKILL)
        return self.reaped(within)

    def reaped(self, within: float) -> bool:
        """Whether it has ended, or ends within so many seconds."""
        if self.process.poll() is None:
            poll = select.poll()  # not select(2), which knows no descriptor above 1023
            poll.register(self.process.pidfd, select.POLLIN)
            poll.poll(within * 1000)
        return self.process.poll() is not None

    def close(self) -> None:
        """Drop its output."""
        self._out.close()
        if self._err is not None:
            self._err.close()

    def close_copies(self) -> None:
        """In a forked copy of the calling process: leave the program to the original."""
        if self.process.returncode is None:
            os.close(self.process.pidfd)
        self.close()

    def __str__(self) -> str:
        """What it is and how it ended, in words."""
        command = " ".join(" ".join(self.args).split())
        command = command if len(command) <= _SHOWN else command[: _SHOWN - 1] + "…"
        code = self.process.poll()
        if code is None:
            return f"{command}: running"
        if code >= 0:
            return f"{command}: exit status {code}"
        try:
            return f"{command}: ended by {signal.Signals(-code).name}"
        except ValueError:  # a real-time signal
            return f"{command}: ended by signal {-code}"


def _file() -> IO[bytes]:
    """Written at its end by everybody who has it, also by those who open it anew as /dev/stdout, whoever they run as."""
    import tempfile

    file: IO[bytes] = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed by `close`
    os.fchmod(file.fileno(), 0o666)
    fcntl.fcntl(file, fcntl.F_SETFL, os.O_RDWR | os.O_APPEND)
    return file


def _holding(data: bytes) -> int:
    """A descriptor to read `data` from."""
    fd = os.memfd_create("stdin")
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _content(file: IO[bytes]) -> bytes:
    found = bytearray()
    while chunk := os.pread(file.fileno(), _CHUNK, len(found)):
        found += chunk
    return bytes(found)
