"""Python stacks of a test process that crashes or hangs: faulthandler on a file of our own.

The file is a memfd made by the pytest process before the fork. Parent and child share it, so what the signal
handler wrote is readable after the process is gone, whatever it died of, and nothing lands on the terminal or
in the captured output. A real-time signal makes a live process write the stacks of all its threads: that is
how a test that ran into its timeout tells where it hangs. faulthandler and not a Python-level handler, because
it also answers when the interpreter is stuck in C code. What the text means for the test is `verdict`'s matter.

The child restores nothing: it ends with the test. `-p no:faulthandler` only turns off pytest's own plugin.
"""

from __future__ import annotations

import faulthandler
import fcntl
import linecache
import os
import re
import signal
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Self

__all__ = ["DUMP_SIGNAL", "CrashFile", "FaultTimer", "readable_stacks"]

DUMP_SIGNAL: Final = signal.SIGRTMAX - 7
"""Asks a test process for its stacks. Real-time, so that no default meaning is taken away from a test; not at
either end of the range, where glibc, valgrind and systemd have theirs."""

_MFD_NOEXEC_SEAL: Final = 0x0008  # Linux 6.3; with vm.memfd_noexec=2 a memfd without it is refused
_MOST_BYTES: Final = 1 << 18
_MOST_THREADS: Final = 8


class CrashFile:
    """The memfd; one serves any number of tests, one after the other."""

    def __init__(self) -> None:
        try:
            self._fd = os.memfd_create("pytest-isolate-stacks", os.MFD_CLOEXEC | _MFD_NOEXEC_SEAL)
        except OSError:  # EINVAL: a kernel before 6.3
            self._fd = os.memfd_create("pytest-isolate-stacks", os.MFD_CLOEXEC)
        # Forked children of a test inherit the handler too: appending keeps their text apart.
        fcntl.fcntl(self._fd, fcntl.F_SETFL, os.O_APPEND)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def enable(self) -> None:
        """In the child: stacks on fatal signals and on `DUMP_SIGNAL`."""
        faulthandler.enable(self._fd, all_threads=True)
        faulthandler.register(DUMP_SIGNAL, file=self._fd, all_threads=True)

    def clear(self) -> None:
        """In the parent, before each fork."""
        os.ftruncate(self._fd, 0)

    def read(self) -> str:
        """In the parent: what was written since `clear`, made readable; empty if nothing was."""
        return readable_stacks(self._raw())

    def dump(self, pidfd: int, wait: float = 1.0) -> str:
        """The stacks of a live process that called `enable`; empty if it gave none within `wait` seconds.

        A process that is stopped, or blocks the signal in every thread, answers nothing.
        """
        before = os.fstat(self._fd).st_size
        try:
            signal.pidfd_send_signal(pidfd, DUMP_SIGNAL)
        except ProcessLookupError:  # ended in the meantime
            return ""
        deadline = time.monotonic() + wait
        size, quiet = before, 0
        # The handler doesn't say when it is done; it writes without pause, so 40 ms of silence are its end.
        while time.monotonic() < deadline and quiet < 8:
            time.sleep(0.005)
            now = os.fstat(self._fd).st_size
            quiet = quiet + 1 if now == size > before else 0
            size = now
        return readable_stacks(self._raw(before))

    def _raw(self, start: int = 0) -> str:
        return os.pread(self._fd, _MOST_BYTES, start).decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class FaultTimer:
    """pytest's `faulthandler_timeout`, carried over the fork.

    faulthandler's timer is a thread. A forked child has not got the thread but has its lock, so that the
    `cancel_dump_traceback_later()` that pytest calls on every failure would wait for ever. Hence the parent
    stops the timer before it forks, and the child starts one of its own.

    Attributes:
        seconds: the ini value; 0: not in use.
        exit: pytest's `faulthandler_exit_on_timeout`.
        fd: where pytest has it written.
    """

    seconds: float
    exit: bool
    fd: int

    def stop(self) -> None:
        """In the parent, before the fork; its own stack is of no interest while it only waits."""
        if self.seconds > 0:
            faulthandler.cancel_dump_traceback_later()

    def start(self) -> None:
        """In the child."""
        if self.seconds > 0:
            faulthandler.dump_traceback_later(self.seconds, file=self.fd, exit=self.exit)


_FRAME: Final = re.compile(r'  File "(?P<file>.*)", line (?P<line>\d+) in (?P<name>.*)')
_THREAD: Final = re.compile(r"(?P<current>Current thread|Thread) 0x[0-9a-f]+(?P<name> \[[^\]]*\])? ")
_PYTEST: Final = re.compile(r"/(?:_pytest|pluggy|pytest_isolate/plugin)/")
_RUNNER: Final = re.compile(r"/_pytest/runner\.py\", line \d+ in from_call$")


def readable_stacks(text: str) -> str:
    """faulthandler's text without what doesn't help: addresses, extension modules, pytest's own frames, repeats.

    The thread that was running comes first, with its source lines.
    """
    head, threads = _split(text)
    threads.sort(key=lambda thread: not thread[0].startswith("Current"))
    lines = head
    for number, (title, frames) in enumerate(threads[:_MOST_THREADS]):
        match = _THREAD.match(title)
        name = (match["current"] + (match["name"] or "")) if match else title
        lines.append(f"{name} (most recent call first):")
        lines += _shown(_without_pytest(frames), sources=number == 0)
    if len(threads) > _MOST_THREADS:
        lines.append(f"and {len(threads) - _MOST_THREADS} more threads")
    return "\n".join(lines)


def _split(text: str) -> tuple[list[str], list[tuple[str, list[str]]]]:
    head: list[str] = []
    threads: list[tuple[str, list[str]]] = []
    frames = head
    for line in text.splitlines():
        if not line or line.startswith("Extension modules:"):
            continue
        if _THREAD.match(line):
            frames = []
            threads.append((line, frames))
        elif line.startswith("Current thread's C stack"):
            frames = []  # since Python 3.14; addresses in binaries
        elif line.startswith(("  ", "Stack (most")) or frames is head:
            frames.append(line)
    return head, threads


def _without_pytest(frames: list[str]) -> list[str]:
    """Without the frames that led to the test: those older than the phase's outermost hook call."""
    starts = [number for number, frame in enumerate(frames) if _RUNNER.search(frame)]
    if not starts:  # cut off by faulthandler's limit of 100 frames, or a thread's own stack
        return frames
    end = starts[-1]
    while end > 0 and _PYTEST.search(frames[end - 1]):
        end -= 1
    return frames[:end] or frames[:5]


def _shown(frames: list[str], *, sources: bool) -> Iterator[str]:
    before, repeats = "", 0
    for frame in [*frames, ""]:
        if frame == before:
            repeats += 1
            continue
        if repeats:
            yield f"  [the same frame {repeats} more times]"
        before, repeats = frame, 0
        if frame:
            yield frame
        if sources and (match := _FRAME.fullmatch(frame)) and (source := _source(match["file"], int(match["line"]))):
            yield f"    {source}"


def _source(path: str, line: int) -> str:
    """The line as the pytest process sees it; empty where that is no regular file.

    The path came out of a sandbox: opening a FIFO or a device by it would hang pytest.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return ""
    except (OSError, ValueError):
        return ""
    return linecache.getline(path, line).strip()
