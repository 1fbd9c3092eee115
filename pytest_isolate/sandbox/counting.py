"""Instructions that the processes of a sandbox execute, counted where a run asks for it.

Each process that is forked into a sandbox opens the counter of itself, for it counts from there on whatever comes of it, without
a moment that is missed. It does so first thing, while it has the caller's privileges in the caller's user namespace
(``kernel.perf_event_paranoid`` above 2 lets only CAP_PERFMON there count), and sets it going when it has joined. The
descriptor goes through a pair of sockets, where it may lie until the caller wants to know: nobody waits for anybody.
"""

from __future__ import annotations

import array
import socket
from contextlib import suppress
from dataclasses import replace
from typing import Final

from pytest_isolate.kernel import perf_event
from pytest_isolate.kernel.perf_event import Counter
from pytest_isolate.model.errors import SetupError
from pytest_isolate.model.usage import Usage

__all__ = ["Counters", "Counting"]

_ENTRY: Final = array.array("i", [0]).itemsize
_FLAGS: Final = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC


class Counting:
    """The counter of one process and of all that comes of it; made before the fork, then used on both sides of it."""

    def __init__(self, others: Counters) -> None:
        self._others = others
        self._ours, self._theirs = socket.socketpair()
        self._counter: Counter | None = None

    def open(self) -> None:
        """In the forked process, as early as can be. Raises SetupError."""
        try:
            self._counter = Counter.open(perf_event.INSTRUCTIONS)
        except OSError as error:
            hint = "python -m pytest_isolate doctor says why; run without --isolate-instructions"
            raise SetupError.from_os_error(f"perf_event_open({perf_event.INSTRUCTIONS.name})", error, hint=hint) from None

    def start(self) -> None:
        """In the forked process: count from here on. None of its descriptors stay. Raises OSError."""
        assert self._counter is not None
        self._counter.start()
        packed = array.array("i", [self._counter.fd]).tobytes()
        self._theirs.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, packed)])
        self._others.close_all()

    def value(self) -> int | None:
        """In the caller: what was counted so far; None where the process ended before it began to, or not all of it was."""
        if self._counter is None:
            with suppress(BlockingIOError):
                _, ancillary, _, _ = self._ours.recvmsg(1, socket.CMSG_SPACE(_ENTRY), _FLAGS)
                for _level, _kind, data in ancillary:
                    self._counter = Counter(array.array("i", data[:_ENTRY])[0])
        return self._counter.read().whole if self._counter is not None else None

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()
        if self._counter is not None:
            self._counter.close()
            self._counter = None


class Counters:
    """Those of a pool, by the number of the sandbox.

    One of the caller's own stands still as long as they are used: where no event of a process is open on the whole machine, opening one
    waits for the kernel to patch its scheduler (`account_event`: an RCU grace period, 4 to 6 ms), and so would each test.
    """

    def __init__(self) -> None:
        self._open: dict[int, list[Counting]] = {}
        self._still: Counter | None = None
        with suppress(OSError):  # whoever counts is told
            self._still = Counter.open(perf_event.INSTRUCTIONS, inherit=False)

    def new(self, box: int) -> Counting:
        """For a process that is going to be forked into the sandbox."""
        counting = Counting(self)
        self._open.setdefault(box, []).append(counting)
        return counting

    def added(self, box: int, usage: Usage) -> Usage:
        """`usage` with the instructions of all that was forked into the sandbox; as it is where one of the counts is unknown."""
        values = [counting.value() for counting in self._open.get(box, ())]
        known = [value for value in values if value is not None]
        return replace(usage, cpu_instructions=sum(known)) if values and len(known) == len(values) else usage

    def close(self, box: int) -> None:
        """Forget the sandbox's. Idempotent."""
        for counting in self._open.pop(box, ()):
            counting.close()

    def close_all(self) -> None:
        """At the end, and in a forked process, which has no use for those of others."""
        for box in list(self._open):
            self.close(box)
        if self._still is not None:
            self._still.close()
            self._still = None
