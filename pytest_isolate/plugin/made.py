"""One sandbox of `isolate_factory` as the pytest process holds it: the sandbox, its programs, what can be done with them.

What takes time is a generator: it looks whether it is done, and else yields what to wait for. The pytest process waits for
it where a fixture or a plain test asked (`finish`), and comes back to it again and again while it waits for the test process
that asked (`errands`), so that time limits, Ctrl-C and other threads' questions aren't held up.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from pytest_isolate.model.errors import IsolateError, NotListening, SandboxGone
from pytest_isolate.model.net import Transport
from pytest_isolate.model.usage import Usage
from pytest_isolate.sandbox import Sandbox
from pytest_isolate.sandbox.logged import Logged
from pytest_isolate.sandbox.pause import Pause, pause
from pytest_isolate.sandbox.ports import listens
from pytest_isolate.sandbox.process import TICK

__all__ = ["OPERATIONS", "Made", "Wait", "finish"]

_T = TypeVar("_T")

_LAST_LINES: Final = 20
_LINE_LENGTH: Final = 200
_KEPT: Final = 1 << 16
"""Bytes of a sandbox's log that outlive it, until the next test."""
_DEATH: Final = 2.0
"""Seconds for a killed program to be dead."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Until a descriptor is readable, or so many seconds; -1: for the time alone."""

    fd: int = -1
    seconds: float | None = TICK


Steps = Generator[Wait, None, _T]


def finish(steps: Steps[_T]) -> _T:
    """Wait for the end of an operation, here and now."""
    try:
        while True:
            wait = next(steps)
            poll = select.poll()
            if wait.fd >= 0:
                poll.register(wait.fd, select.POLLIN)
            poll.poll(None if wait.seconds is None else wait.seconds * 1000)
    except StopIteration as end:
        result: _T = end.value
        return result
    finally:
        steps.close()


class Made:
    """One sandbox.

    Args:
        number: its key among the run's.
        owner: with what it ends, in words.
        fixture: name of the fixture that made it; empty: a test.

    Attributes:
        ended: how it ended, in words; empty while it lives.
        programs: those that `popen` started.
    """

    def __init__(self, number: int, name: str, box: Sandbox, *, owner: str, fixture: str) -> None:
        self.number, self.name, self.box = number, name, box
        self.owner, self.fixture = owner, fixture
        self.ended = ""
        self.programs: list[Logged] = []
        self._running: set[Logged] = set()
        self._pause: Pause | None = None
        self._cut: set[Made] = set()
        self._usage = Usage()
        self._victims: tuple[str, ...] = ()
        self._log: bytes | None = None

    # --- what a handle asks for ---

    def run(self, args: Sequence[bytes], cwd: str | None, data: bytes | None, timeout: float | None) -> Steps[dict[str, Any]]:
        self._usable(starting=True)
        program = Logged(self.box, [os.fsdecode(arg) for arg in args], cwd=cwd, data=data, joined=False)
        self._running.add(program)
        try:
            yield from self._until_ended(program, timeout)
            return {"returncode": program.process.returncode, "stdout": program.output(), "stderr": program.errors()}
        except subprocess.TimeoutExpired as error:
            raise subprocess.TimeoutExpired(error.cmd, error.timeout, program.output(), program.errors()) from None
        finally:
            program.kill(_DEATH)
            self._running.discard(program)
            program.close()

    def popen(self, args: Sequence[bytes], cwd: str | None, data: bytes | None) -> dict[str, Any]:
        self._usable(starting=True)
        program = Logged(self.box, [os.fsdecode(arg) for arg in args], cwd=cwd, data=data)
        self.programs.append(program)
        return {"program": len(self.programs) - 1, "pid": program.process.pid}

    def poll(self, program: int) -> int | None:
        return self.programs[program].process.poll()

    def wait(self, program: int, timeout: float | None) -> Steps[int | None]:
        yield from self._until_ended(self.programs[program], timeout)
        return self.programs[program].process.returncode

    def signal(self, program: int, number: int) -> None:
        self.programs[program].process.send_signal(number)

    def logs(self, program: int | None = None) -> bytes:
        """Of one program, or of all, one after the other."""
        if self._log is not None:
            return self._log
        wanted = self.programs if program is None else [self.programs[program]]
        return b"".join(logged.output() for logged in wanted)

    def wait_for_port(self, port: int, protocol: Transport, timeout: float) -> Steps[None]:
        self._usable()
        deadline = time.monotonic() + timeout
        while not listens(self.box.init_pid, port, protocol):
            what = f"nothing listens on port {port}/{protocol} of {self}"
            if why := self._no_server():
                raise NotListening(f"{what}, and nothing will: {why}{self._tail('its log')}")
            if time.monotonic() > deadline:
                programs = "; ".join(map(str, self.programs)) or "no program was started by popen"
                raise NotListening(f"{what} after {timeout:g} s: {programs}{self._tail('its log')}")
            yield Wait()
            self._usable()

    def kill(self, place: str) -> None:
        self._usable()
        self.end(f"killed by kill() at {place}")

    def pause(self) -> None:
        self._usable()
        if self._pause is None:
            self._pause = pause(self.box.init_pid, self.box.group)

    def resume(self) -> None:
        self._usable()
        if self._pause is not None:
            held, self._pause = self._pause, None
            held.resume()

    def partition(self, other: Made) -> None:
        if other is self:
            raise ValueError(f"{self} can't be parted from itself")
        for side in (self, other):
            side._usable()  # noqa: SLF001 - of the same kind
        self.box.cut(other.box)
        self._cut.add(other)
        other._cut.add(self)

    def heal(self, other: Made | None = None) -> None:
        """From `other`, or from all that it was parted from."""
        self._usable()
        for side in [side for side in self._cut if other in (None, side)]:
            self._mend(side)

    def usage(self) -> dict[str, Any]:
        return self._usage.to_json() if self.ended else self.box.usage().to_json()

    def changes(self) -> str:
        """As JSON."""
        self._usable()
        return json.dumps(self.box.changes().to_json())

    # --- its end ---

    def end(self, how: str) -> None:
        """Kill what runs in it and give it back. Idempotent; raises nothing.

        Args:
            how: in words, behind "has ended: ".
        """
        if not self.box.open:
            return
        self.ended = self.ended or how
        self.part()
        with suppress(IsolateError, OSError):
            self._usage = self.box.usage()
            self._victims = self.box.events(network=False).oom_victims
        self.box.kill()
        for program in (*self.programs, *self._running):
            program.reaped(_DEATH)
        self._pause = None
        self.box.release()

    def part(self) -> None:
        """Undo what cut it off: its address may be the next one's."""
        for side in list(self._cut):
            with suppress(IsolateError):
                self._mend(side)

    def close(self) -> None:
        """Keep the end of its log alone."""
        if self._log is None:
            self._log = self.logs()[-_KEPT:]
            for program in self.programs:
                program.close()

    def forget(self) -> None:
        """Nobody will be told of its log any more."""
        self._log = b""

    def close_copies(self) -> None:
        """In a forked test process: its descriptors are the pytest process's."""
        for program in () if self._log is not None else (*self.programs, *self._running):
            program.close_copies()

    # --- what is said about it ---

    def report(self) -> list[str]:
        """For the section of a failing test."""
        state = f"ended: {self.ended}" if self.ended else "paused" if self._pause else "runs"
        address = f", {self.box.address.ip}" if self.box.open and self.box.address is not None else ""
        lines = [f"{self} ({self.owner}{address}): {state}"]
        if victims := self._victims if self.ended else self.box.events(network=False).oom_victims:
            lines.append(f"  killed by the memory cap: {', '.join(victims)}")
        lines += [f"  {program}" for program in self.programs]
        return [*lines, *self._tail("  its log").splitlines()[1:]]

    def __str__(self) -> str:
        return f"sandbox {self.name!r}"

    def _tail(self, title: str) -> str:
        data = self.logs()[-_LAST_LINES * _LINE_LENGTH :] if self._log is not None else self._last_bytes()
        lines = data.decode(errors="replace").splitlines()[-_LAST_LINES:]
        return "\n".join(["", f"{title}, the last lines:", *(f"    {line[:_LINE_LENGTH]}" for line in lines)]) if lines else ""

    def _last_bytes(self) -> bytes:
        return b"".join(program.tail(_LAST_LINES * _LINE_LENGTH) for program in self.programs)

    # --- inner parts ---

    def _usable(self, *, starting: bool = False) -> None:
        if not self.ended and not self.box.alive():
            self.ended = "its init was killed, or the builder that held it"
        if self.ended:
            raise SandboxGone(f"{self} has ended: {self.ended}", "make another one; its name is free")
        if starting and self._pause is not None:
            raise IsolateError(f"{self} is paused: a program that is started now would never begin", "call resume() first")

    def _no_server(self) -> str:
        """Why nobody is left who could listen; empty if somebody is."""
        if not self.programs or (code := self.programs[-1].process.poll()) is None:
            return ""
        if code != 0 or not self.box.processes():
            return str(self.programs[-1])
        return ""  # it went to the background

    def _mend(self, side: Made) -> None:
        self._cut.discard(side)
        side._cut.discard(self)
        if side.box.open:
            self.box.mend(side.box)

    def _until_ended(self, program: Logged, timeout: float | None) -> Steps[None]:
        deadline = None if timeout is None else time.monotonic() + timeout
        while program.process.poll() is None:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise subprocess.TimeoutExpired(program.args, timeout or 0)
            sample = self.box.sampler if self.box.open else None
            if sample is not None:
                sample()
                left = TICK if left is None else min(left, TICK)
            yield Wait(program.process.pidfd, left)


OPERATIONS: Final[Mapping[str, Any]] = {
    operation.__name__: operation
    for operation in (
        Made.run, Made.popen, Made.poll, Made.wait, Made.signal, Made.logs, Made.wait_for_port,
        Made.kill, Made.pause, Made.resume, Made.partition, Made.heal, Made.usage, Made.changes,
    )
}  # fmt: skip
"""What may be asked, by name."""
