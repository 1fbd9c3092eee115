"""A test process as its parent sees it: frames from it, frames to it, its end.

Waiting polls the channel and the pidfd of the process together. End-of-file says nothing, because a process that the
test left behind can hold the channel open; the last report, or the end of the process, does.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from pytest_isolate.plugin.wire import Frame, Inbox, encode, framed

__all__ = ["Forked", "TimedOut"]


class TimedOut(Exception):
    """`spec.timeout` is over."""


class Forked:
    """One test process.

    Args:
        pid: a child of this process.
        channel: this process's end.

    Attributes:
        status: its wait status once it is waited for; 0 where it was let go.
        cpu: user and system seconds of it and the descendants that it waited for, once it is waited for.
    """

    def __init__(self, pid: int, channel: int) -> None:
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.status: int | None = None
        self.cpu = 0.0, 0.0
        self._channel = channel
        self._inbox = Inbox(channel)
        self._outbox = bytearray()
        self._poll = select.poll()
        self._poll.register(channel, select.POLLIN)
        self._poll.register(self.pidfd, select.POLLIN)
        self._ended = False

    @property
    def sigkilled(self) -> bool:
        """Whether SIGKILL ended it."""
        return self.status is not None and os.WIFSIGNALED(self.status) and os.WTERMSIG(self.status) == signal.SIGKILL

    def frame(self, deadline: float | None, tick: Callable[[], float | None]) -> Frame | None:
        """The next one; None once the process is dead and has left none.

        Args:
            deadline: in time.perf_counter()'s seconds.
            tick: to be called meanwhile; it says after how many seconds again, None: when something has come.

        Raises:
            TimedOut: there is none before the deadline.
            ValueError: something else than a frame came.
        """
        while True:
            if (frame := self._inbox.next()) is not None:
                return frame
            if self._ended:
                return None
            left = None if deadline is None else max(0.0, deadline - time.perf_counter())
            if (pause := tick()) is not None:
                left = pause if left is None else min(pause, left)
            if not (ready := self._poll.poll(None if left is None else left * 1000)):
                if deadline is not None and time.perf_counter() >= deadline:
                    raise TimedOut
                continue
            for fd, event in ready:
                self._happened(fd, event)

    def _happened(self, fd: int, event: int) -> None:
        if event & select.POLLOUT:
            self._flush()
        if not event & ~select.POLLOUT:
            return
        if fd == self.pidfd:
            self._ended = True
            self._inbox.drain()
        elif not self._inbox.drain():
            self._poll.unregister(fd)  # closed by the test; its end will tell

    def tell(self, frame: Frame) -> None:
        """Send it, what doesn't fit now while frames are waited for: the process may be busy with something else."""
        self._outbox += framed(encode(frame)[0])
        self._flush()

    def _flush(self) -> None:
        try:
            while self._outbox:
                del self._outbox[: os.write(self._channel, self._outbox)]
        except BlockingIOError:
            pass
        except OSError:  # it is dead, which waiting will find
            self._outbox.clear()
        with suppress(KeyError, FileNotFoundError):  # it closed its end, and nothing more comes from there
            self._poll.modify(self._channel, select.POLLIN | (select.POLLOUT if self._outbox else 0))

    def interrupt(self) -> None:
        """SIGINT, as Ctrl-C sends it."""
        os.kill(self.pid, signal.SIGINT)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def wait(self) -> None:
        """Until it has ended. Until then its zombie keeps the sandbox's init from dying (pid_namespaces(7))."""
        _, self.status, used = os.wait4(self.pid, 0)
        self.cpu = used.ru_utime, used.ru_stime
        self._close()

    def let_go(self) -> None:
        """It has only its exit before it: somebody else waits for that."""
        self.status = 0
        self._close()

    def _close(self) -> None:
        os.close(self.pidfd)
        os.close(self._channel)
