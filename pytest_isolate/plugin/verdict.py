"""How a test process ended, judged: from wait status, kernel events and figures to words. Pure.

Each thing that can go wrong is a frozen dataclass with a `kind`, one word that the summary groups by, and a
`text()` whose first line stands alone. `judge` says which of them is the cause of a missing report (at most
one) and which are findings beside it. Reading the facts, killing and raising are the protocol's part.
"""

from __future__ import annotations

import errno
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final, Protocol

from pytest_isolate.model.spec import Spec
from pytest_isolate.model.units import format_duration, format_size
from pytest_isolate.model.usage import ProcessInfo, Usage
from pytest_isolate.report.record import Problem

__all__ = [
    "DiskFull",
    "DiskWasFull",
    "Ending",
    "Exit",
    "Finding",
    "Gone",
    "Leak",
    "OutOfMemory",
    "PidsCap",
    "Signal",
    "Timeout",
    "Verdict",
    "judge",
]

_MOST_PROCESSES: Final = 10
_MOST_COMMAND: Final = 120

_EXIT_HINTS: Final = {
    # The status of a test process that can't reach the pytest process any more.
    71: "the test process could not send its report; did the test close descriptors that aren't its own (os.closerange)?",
}
_WITH_STACK: Final = frozenset({signal.SIGSEGV, signal.SIGFPE, signal.SIGABRT, signal.SIGBUS, signal.SIGILL})
"""What faulthandler handles. A stack beside another signal is that of a process which the test forked."""

_SIGNAL_HINTS: Final = {
    "SIGKILL": "sent from inside or by the host; not by the memory cap",
    "SIGBUS": "a mapping was used beyond the end of its file, or its file system was full",
    "SIGXCPU": "RLIMIT_CPU was used up",
    "SIGXFSZ": "RLIMIT_FSIZE was reached",
    "SIGSYS": "a seccomp filter refused a system call",
}


class Finding(ABC):
    """Something that went wrong with one test."""

    kind: ClassVar[str]
    title: ClassVar[str]

    @abstractmethod
    def text(self) -> str:
        """What happened; the first line stands alone."""


@dataclass(frozen=True, slots=True)
class Signal(Finding):
    """The test process was killed by a signal that neither the memory cap nor a timeout sent."""

    kind: ClassVar[str] = "SIGNAL"
    title: ClassVar[str] = "isolate: killed"
    number: int
    phase: str
    stack: str = ""
    disk_full: bool = False

    @property
    def name(self) -> str:
        try:
            return signal.Signals(self.number).name
        except ValueError:
            return f"SIGRTMIN+{self.number - signal.SIGRTMIN}"

    def text(self) -> str:
        meaning = signal.strsignal(self.number)
        hint = _SIGNAL_HINTS.get(self.name, "")
        if self.name == "SIGBUS" and self.disk_full:
            hint = "the sandbox's disk is full, and a mapped file in it was written to"
        elif self.name == "SIGSEGV" and "[the same frame" in self.stack:
            hint = "the stack overflowed: recursion without end"
        first = f"signal {self.name} in {self.phase}" + (f" ({meaning})" if meaning else "")
        return _paragraphs(f"{first}: {hint}" if hint else first, self.stack)


@dataclass(frozen=True, slots=True)
class Exit(Finding):
    """The test process exited before its report."""

    kind: ClassVar[str] = "EXIT"
    title: ClassVar[str] = "isolate: exited"
    status: int
    phase: str

    def text(self) -> str:
        why = _EXIT_HINTS.get(self.status, "the test process left before its report (os._exit, or exit in C code)")
        return f"exit status {self.status} in {self.phase}: {why}"


@dataclass(frozen=True, slots=True)
class OutOfMemory(Finding):
    """The memory cap killed at least one process."""

    kind: ClassVar[str] = "OOM"
    title: ClassVar[str] = "isolate: out of memory"
    peak: int | None
    cap: int | None
    kills: int
    victims: tuple[str, ...] = ()
    disk_written: int | None = None

    def text(self) -> str:
        what = ", ".join(self.victims) or ("1 process" if self.kills == 1 else f"{self.kills} processes")
        used = _of(self.peak, self.cap)
        first = f"OOM: {f'used {used}, ' if used else ''}killed {what}"
        if self.cap and self.disk_written and self.disk_written * 4 > self.cap:
            first += f"\n{format_size(self.disk_written)} of it are files in the sandbox's writable layer, a tmpfs"
        return first


@dataclass(frozen=True, slots=True)
class Timeout(Finding):
    """The time inside the sandbox was used up; everything inside was killed."""

    kind: ClassVar[str] = "TIMEOUT"
    title: ClassVar[str] = "isolate: timeout"
    seconds: float
    phase: str
    stack: str = ""
    running: tuple[ProcessInfo, ...] = ()

    def text(self) -> str:
        stack = self.stack or "no Python stack: the process did not answer (stopped, or it blocks every signal)"
        return _paragraphs(
            f"timeout of {format_duration(self.seconds)} in {self.phase}",
            stack,
            _listing("running inside, all killed:", self.running),
        )


@dataclass(frozen=True, slots=True)
class PidsCap(Finding):
    """fork or thread creation was refused by the pids cap."""

    kind: ClassVar[str] = "PIDS"
    title: ClassVar[str] = "isolate: pids cap"
    cap: int | None
    hits: int

    def text(self) -> str:
        cap = f" of {self.cap}" if self.cap is not None else ""
        times = "once" if self.hits == 1 else f"{self.hits} times"
        return f"pids cap{cap} hit {times}: a fork or a new thread was refused (EAGAIN)"


@dataclass(frozen=True, slots=True)
class DiskFull(Finding):
    """The writable layer ran full."""

    kind: ClassVar[str] = "DISK"
    title: ClassVar[str] = "isolate: disk full"
    cap: int | None
    written: int | None = None

    def text(self) -> str:
        used = _of(self.written, self.cap)
        return f"disk full{f': {used} written' if used else ''}, further writes were refused (ENOSPC)"


@dataclass(frozen=True, slots=True)
class DiskWasFull(Finding):
    """A failure speaks of a full disk, and the writable layer has room again: the test cleaned up on its way out."""

    kind: ClassVar[str] = "DISK"
    title: ClassVar[str] = DiskFull.title
    cap: int
    on_disk: bool = False

    @classmethod
    def told_by(cls, failure: str, spec: Spec) -> DiskWasFull | None:
        """From a report's text; only where a cap was asked for, as other file systems run full too."""
        return cls(spec.disk, spec.upper == "disk") if spec.disk is not None and os.strerror(errno.ENOSPC) in failure else None

    def text(self) -> str:
        # A tmpfs takes what fits of a write, ext4 none of a piece that doesn't fit whole.
        now = "less room is left than it needed, or it has room again now" if self.on_disk else "has room again now"
        return f"a write found no space (ENOSPC): the sandbox's disk holds {format_size(self.cap)}, and {now}"


@dataclass(frozen=True, slots=True)
class Leak(Finding):
    """Processes were alive inside after the test process had ended; they were killed."""

    kind: ClassVar[str] = "LEAK"
    title: ClassVar[str] = "isolate: left behind"
    processes: tuple[ProcessInfo, ...]

    def text(self) -> str:
        count = len(self.processes)
        names = ", ".join(f"{process.name} (pid {process.pid})" for process in self.processes[:3])
        more = f" and {count - 3} more" if count > 3 else ""
        first = f"{count} process{'es' if count > 1 else ''} left behind: {names}{more}"
        return _paragraphs(first, _listing("command lines:", self.processes))


@dataclass(frozen=True, slots=True)
class Gone(Finding):
    """The sandbox ended under the test: its init or the builder was killed."""

    kind: ClassVar[str] = "GONE"
    title: ClassVar[str] = "isolate: sandbox gone"
    phase: str
    why: str

    def text(self) -> str:
        return f"sandbox gone in {self.phase}: {self.why}"


class Happened(Protocol):
    """The kernel's events that `judge` reads; `sandbox.Events` is one."""

    @property
    def oom_kills(self) -> int: ...
    @property
    def oom_victims(self) -> tuple[str, ...]: ...
    @property
    def pids_cap_hits(self) -> int: ...
    @property
    def disk_full(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Ending:
    """The facts about one test process at its end.

    Attributes:
        status: wait status; None for a process that gave all its reports.
        phase: setup, call or teardown: the one whose report is missing.
        timed_out: the protocol killed it because `spec.timeout` was over.
        stack: what faulthandler wrote.
        pid: of the test process, outside; the kernel names its victims by such pids.
        running: processes inside at the time of the timeout, the test process included.
        left: processes inside after the test process had ended.
        gone: why the sandbox is gone, where it is.
    """

    status: int | None
    phase: str
    spec: Spec
    events: Happened
    usage: Usage = field(default_factory=Usage)
    timed_out: bool = False
    stack: str = ""
    pid: int = 0
    running: Sequence[ProcessInfo] = ()
    left: Sequence[ProcessInfo] = ()
    gone: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to report.

    Attributes:
        cause: why a report is missing; None if none is.
        beside: what else was found, worth a section in a failing report and a line in the summary.
        leak: processes left behind; a failure of the teardown where `leak_fails`.
    """

    cause: Finding | None
    beside: tuple[Finding, ...]
    leak: Leak | None
    leak_fails: bool

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Everything, the gravest first: what the test's record lists."""
        return tuple(finding for finding in (self.cause, *self.beside, self.leak) if finding)

    def problems(self, *, failed: bool) -> tuple[Problem, ...]:
        """For the test's record.

        Args:
            failed: whether any report of the test failed; what was found beside the cause is then held to be why.
        """
        return tuple(
            Problem(
                finding.kind,
                finding.text().partition("\n")[0],
                failed and (finding is not self.leak or self.leak_fails),
            )
            for finding in self.findings
        )

    def sections(self) -> list[tuple[str, str]]:
        """Title and text of what a failing report says beside its cause."""
        return [(finding.title, finding.text()) for finding in self.findings if finding is not self.cause]


def judge(ending: Ending) -> Verdict:
    """Name the cause of a missing report and what was found beside it.

    The order settles what several facts mean together: a timeout kills with SIGKILL as the memory cap does,
    and a sandbox that is gone took the test process along.
    """
    events, spec, usage = ending.events, ending.spec, ending.usage
    oom = None
    if events.oom_kills:
        own = f"(pid {ending.pid} of the host)"
        victims = tuple(victim.replace(own, "(the test process)") for victim in events.oom_victims)
        oom = OutOfMemory(
            usage.memory_peak_bytes,
            spec.memory,
            events.oom_kills,
            victims,
            usage.disk_written_bytes if spec.upper == "tmpfs" else None,
        )
    cause = _cause(ending, oom)
    beside: list[Finding] = [oom] if oom and cause is not oom else []
    if events.pids_cap_hits:
        beside.append(PidsCap(spec.pids, events.pids_cap_hits))
    if events.disk_full:
        beside.append(DiskFull(spec.disk, usage.disk_written_bytes))
    # After a signal, a timeout or an OOM kill the rest had no chance to be ended by the test.
    orderly = cause is None or isinstance(cause, Exit)
    leak = Leak(tuple(ending.left)) if ending.left and orderly else None
    return Verdict(cause, tuple(beside), leak, leak is not None and spec.leak == "fail")


def _cause(ending: Ending, oom: OutOfMemory | None) -> Finding | None:
    if ending.timed_out:
        return Timeout(ending.spec.timeout or 0.0, ending.phase, ending.stack, tuple(ending.running))
    if ending.status is None:
        return None
    if not os.WIFSIGNALED(ending.status):
        return Exit(os.waitstatus_to_exitcode(ending.status), ending.phase)
    number = os.WTERMSIG(ending.status)
    if number == signal.SIGKILL and oom:
        return oom
    if number == signal.SIGKILL and ending.gone:
        return Gone(ending.phase, ending.gone)
    stack = ending.stack if number in _WITH_STACK else ""
    return Signal(number, ending.phase, stack, ending.events.disk_full)


def _paragraphs(*parts: str) -> str:
    return "\n".join(part for part in parts if part)


def _of(part: int | None, whole: int | None) -> str:
    """``64.0 of 64 MiB``: both in the unit of the whole."""
    if part is None:
        return f"all of {format_size(whole)}" if whole else ""
    if not whole:
        return format_size(part)
    scale, unit = next(
        ((1 << shift, unit) for shift, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")) if whole >> shift),
        (1, "B"),
    )
    return f"{part / scale:.1f} of {whole / scale:.4g} {unit}"


def _listing(title: str, processes: Sequence[ProcessInfo]) -> str:
    if not processes:
        return ""
    lines = [title]
    for process in processes[:_MOST_PROCESSES]:
        line = str(process)
        lines.append("  " + (line if len(line) <= _MOST_COMMAND else line[: _MOST_COMMAND - 1] + "…"))
    if len(processes) > _MOST_PROCESSES:
        lines.append(f"  and {len(processes) - _MOST_PROCESSES} more")
    return "\n".join(lines)
