"""Programs in a sandbox: fork into it, arrange the standard streams, exec.

The part of subprocess.Popen that a sandbox needs, and in its terms. subprocess itself can't be told to
fork in this way.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import IO, Any, Final

from pytest_isolate.model.errors import SetupError, error_from_json

__all__ = ["TICK", "Process", "Stream", "spawn"]

Stream = int | IO[bytes] | None
"""None to inherit, subprocess.PIPE, subprocess.DEVNULL, subprocess.STDOUT (for stderr), an fd or a file."""

Fork = Callable[[Callable[[SetupError], object]], int]


TICK: Final = 0.005
"""Seconds between two samples."""


class Process:
    """A program that runs in a sandbox; a direct child of the caller.

    Attributes:
        args: its argument list.
        pid: its process id outside.
        pidfd: of it, until it is waited for.
        returncode: None while it runs, its exit status, or minus the signal that ended it.
        stdin, stdout, stderr: pipes where asked for.
    """

    def __init__(
        self, args: Sequence[str], pid: int, pipes: tuple[IO[bytes] | None, ...], tick: Callable[[], None] | None = None
    ) -> None:
        self.args = list(args)
        self.pid = pid
        self._tick = tick
        self.returncode: int | None = None
        self.stdin, self.stdout, self.stderr = pipes
        self.pidfd = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """The return code if it has ended."""
        return self._reap(os.WNOHANG)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: after `timeout` seconds.
        """
        if self.returncode is None and (timeout is not None or self._tick is not None):
            deadline = None if timeout is None else time.monotonic() + timeout
            while not select.select([self.pidfd], [], [], self._pause(deadline))[0]:
                if deadline is not None and time.monotonic() >= deadline:
                    raise subprocess.TimeoutExpired(self.args, timeout or 0)
        while (code := self._reap(0)) is None:
            pass
        return code

    def _pause(self, deadline: float | None) -> float | None:
        """How long to wait at most, in seconds, before asking again; calls `tick`."""
        left = None if deadline is None else max(deadline - time.monotonic(), 0)
        if self._tick is None:
            return left
        self._tick()
        return TICK if left is None else min(left, TICK)

    def _reap(self, flags: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, flags)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
                os.close(self.pidfd)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Nothing if it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)

    def communicate(self, data: bytes | None = None, timeout: float | None = None) -> tuple[bytes, bytes]:
        """Write `data` to stdin, read the pipes to their end, wait.

        A descendant may keep a pipe open after the program ended: what came until then is returned.

        Raises:
            subprocess.TimeoutExpired
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        exchange = _Exchange(self, data or b"", self.pidfd if self.returncode is None else None)
        while not exchange.done:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            exchange.step(self._pause(deadline))
        self.wait(None if deadline is None else deadline - time.monotonic())
        self.close()
        return exchange.output(self.stdout), exchange.output(self.stderr)

    def close(self) -> None:
        """Close the pipes."""
        for pipe in (self.stdin, self.stdout, self.stderr):
            if pipe:
                with suppress(BrokenPipeError):
                    pipe.close()


class _Exchange:
    """What goes through a program's pipes, all at once so that none of them can fill up and block it."""

    def __init__(self, process: Process, data: bytes, pidfd: int | None) -> None:
        self._input = memoryview(data)
        self._stdin = process.stdin
        self._open = {pipe.fileno(): bytearray() for pipe in (process.stdout, process.stderr) if pipe}
        self._collected = {id(pipe): self._open[pipe.fileno()] for pipe in (process.stdout, process.stderr) if pipe}
        self._pidfd = pidfd
        self._poll = select.poll()
        for fd in (*self._open, *([pidfd] if pidfd is not None else [])):
            self._poll.register(fd, select.POLLIN)
        if self._stdin and data:
            os.set_blocking(self._stdin.fileno(), False)
            self._poll.register(self._stdin, select.POLLOUT)
        elif self._stdin:
            self._stdin.close()

    @property
    def done(self) -> bool:
        return not self._open

    def output(self, pipe: IO[bytes] | None) -> bytes:
        return bytes(self._collected.get(id(pipe), b""))

    def step(self, seconds: float | None) -> None:
        """Wait for one thing to happen, no longer than `seconds`; once the program ended, for nothing."""
        ended = self._pidfd is None
        events = self._poll.poll(0 if ended else None if seconds is None else seconds * 1000)
        if ended and not events:  # what is still open is held by a descendant
            self._open.clear()
        for fd, _ in events:
            if fd in self._open:
                self._read(fd)
            elif fd == self._pidfd:
                self._poll.unregister(fd)
                self._pidfd = None
            elif self._stdin:
                self._write(self._stdin)

    def _read(self, fd: int) -> None:
        if chunk := os.read(fd, 65536):
            self._open[fd] += chunk
        else:
            self._poll.unregister(fd)
            del self._open[fd]

    def _write(self, stdin: IO[bytes]) -> None:
        try:
            self._input = self._input[os.write(stdin.fileno(), self._input) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._input = self._input[:0]
        if not self._input:
            self._poll.unregister(stdin)
            stdin.close()


def spawn(
    fork: Fork,
    args: Sequence[str],
    streams: tuple[Stream, Stream, Stream],
    cwd: str | None,
    *,
    foreground: bool,
    tick: Callable[[], None] | None = None,
) -> Process:
    """Fork by `fork` and exec `args` with `streams` as standard input, output and error.

    Args:
        foreground: hand the terminal on standard input to the program, as a shell does.
        tick: to be called every TICK seconds while the program is waited for.

    Raises:
        SetupError: the sandbox could not be joined.
        OSError: exec or chdir failed, with the program's path.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError, OSError):
            stream.flush()
    inside, pipes, opened = _arrange(streams)
    status_read, status_write = os.pipe()

    def report(error: dict[str, Any]) -> None:
        os.write(status_write, json.dumps(error).encode())

    try:
        pid = fork(lambda error: report(error.to_json()))
        if pid == 0:
            _exec(args, inside, cwd, foreground=foreground, report=report)
    finally:
        os.close(status_write)
        for fd in opened:
            os.close(fd)
    with os.fdopen(status_read, "rb") as status:
        answer = status.read()
    if not answer:
        return Process(args, pid, pipes, tick)
    os.waitpid(pid, 0)
    for pipe in pipes:
        if pipe:
            pipe.close()
    data = json.loads(answer)
    if "errno" in data:
        raise OSError(data["errno"], os.strerror(data["errno"]), data["path"])
    raise error_from_json(data)


def _arrange(streams: tuple[Stream, Stream, Stream]) -> tuple[list[int], tuple[IO[bytes] | None, ...], list[int]]:
    """(fds to become 0, 1 and 2; our ends of pipes; fds to close after the fork)."""
    inside: list[int] = []
    pipes: list[IO[bytes] | None] = []
    opened: list[int] = []
    for number, stream in enumerate(streams):
        pipe = None
        if stream is None:
            fd = number
        elif stream == subprocess.PIPE:
            read, write = os.pipe()
            fd, ours = (read, write) if number == 0 else (write, read)
            pipe = os.fdopen(ours, "wb" if number == 0 else "rb", buffering=0)
            opened.append(fd)
        elif stream == subprocess.DEVNULL:
            fd = os.open(os.devnull, os.O_RDWR)
            opened.append(fd)
        elif stream == subprocess.STDOUT:
            fd = inside[1]
        else:
            fd = stream if isinstance(stream, int) else stream.fileno()
        inside.append(fd)
        pipes.append(pipe)
    return inside, tuple(pipes), opened


def _exec(
    args: Sequence[str], inside: list[int], cwd: str | None, *, foreground: bool, report: Callable[[dict[str, Any]], None]
) -> None:
    """The child's part. Never returns."""
    path = cwd or args[0]
    try:
        if foreground:
            _take_terminal()
        if cwd is not None:
            os.chdir(cwd)
        path = args[0]
        # Duplicated above 2 first, so that no stream overwrites one that is still to be placed.
        for number, fd in enumerate([fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in inside]):
            os.dup2(fd, number)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        os.execvpe(args[0], list(args), os.environ)
    except OSError as error:
        report({"errno": error.errno, "path": path})
    finally:
        os._exit(127)


def _take_terminal() -> None:
    """Make the caller's process group the terminal's foreground group, if standard input is a terminal."""
    if os.isatty(0):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTTOU])
        with suppress(OSError):
            os.tcsetpgrp(0, os.getpgrp())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTTOU])
