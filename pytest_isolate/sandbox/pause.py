"""Holding everything in a sandbox still, and letting it go on.

In the v2 tree the kernel does it: `cgroup.freeze` (cgroup-v2.rst). A sandbox without a directory there has its
processes stopped by SIGSTOP. The v1 freezer is left alone: frozen, a process ignores SIGKILL, and an init that can't be
killed holds its namespaces for good.

SIGSTOP differs in two ways that can be seen: a parent that waits with WUNTRACED, as a shell with job control, is told, and
what is blocked in the kernel (a parent between vfork(2) and its child's exec) stops only when it comes back from there.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from pytest_isolate.kernel.cgroup import Group
from pytest_isolate.kernel.cgroup_files import entry, text, write
from pytest_isolate.model.errors import SetupError

__all__ = ["Pause", "pause"]

_PATIENCE: Final = 5.0
"""Seconds until everything has to be still."""
_BLOCKED: Final = 0.25
"""Seconds after which what is blocked in the kernel counts as still: its SIGSTOP waits for it."""
_STEP: Final = 0.001
_CLEAN: Final = 2
"""Listings without a running process in a row: the first may have been read before the last fork of one that stopped then."""
_ENDED: Final = "ZX"
_STOPPED: Final = "Tt"
_IN_KERNEL: Final = "D"


@dataclass(frozen=True, slots=True)
class Pause:
    """A sandbox held still.

    Attributes:
        init: pid of its init, which goes on: it only reaps.
        group: its cgroups.
        before: processes that had been stopped already, which stay so.
    """

    init: int
    group: Group | None
    before: frozenset[int] = field(default_factory=frozenset)

    def resume(self) -> None:
        """Let everything go on. Raises SetupError."""
        if freezer := _freezer(self.group):
            _write(freezer, "0")
            return
        for pid in _pids(self.init, self.group) - self.before:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def pause(init: int, group: Group | None) -> Pause:
    """Hold everything in the sandbox of `init` still, and return when it is.

    Raises:
        SetupError: something went on running; then all of it does again.
    """
    if freezer := _freezer(group):
        held = Pause(init, group)
        _write(freezer, "1")
        _wait_frozen(held, freezer)
        return held
    held = Pause(init, group, frozenset(pid for pid in _pids(init, group) if _state(pid) in _STOPPED))
    _stop(held)
    return held


def _freezer(group: Group | None) -> str | None:
    file = group.v2_file("cgroup.freeze") if group is not None else None
    return file if file is not None and os.path.exists(file) else None


def _write(path: str, value: str) -> None:
    try:
        write(path, value)
    except OSError as error:
        raise SetupError.from_os_error("pause", error) from None


def _wait_frozen(held: Pause, freezer: str) -> None:
    events = os.path.join(os.path.dirname(freezer), "cgroup.events")
    deadline = time.monotonic() + _PATIENCE
    while entry(events, "frozen") != 1:
        if time.monotonic() > deadline:
            held.resume()
            raise SetupError("pause", freezer, detail=f"not everything was frozen after {_PATIENCE:g} s")
        time.sleep(_STEP)


def _stop(held: Pause) -> None:
    begun = time.monotonic()
    clean = 0
    while clean < _CLEAN:
        passed = time.monotonic() - begun
        still = _STOPPED + _ENDED + (_IN_KERNEL if passed > _BLOCKED else "")
        running = [pid for pid in _pids(held.init, held.group) if _state(pid) not in still]
        clean = 0 if running else clean + 1
        if running and passed > _PATIENCE:
            held.resume()
            raise SetupError("pause", detail=f"process {running[0]} of the host wasn't stopped after {_PATIENCE:g} s")
        for pid in running:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        if running:
            time.sleep(_STEP)


def _pids(init: int, group: Group | None) -> frozenset[int]:
    """What runs in the sandbox, `init` left out, by pids of the caller's namespace."""
    for directory in group.directories() if group is not None else ():
        if (listed := text(f"{directory}/cgroup.procs")) is not None:
            return frozenset(map(int, listed.split())) - {init, 0}
    return _in_namespace_of(init)


def _in_namespace_of(init: int) -> frozenset[int]:
    """Found without a cgroup: what is in the PID namespace of `init`, or below a process that is."""
    namespace = _namespace(init)
    parents = {int(name): _parent(int(name)) for name in os.listdir("/proc") if name.isdigit()}
    inside = {pid for pid in parents if namespace and _namespace(pid) == namespace}
    while more := {pid for pid, parent in parents.items() if parent in inside} - inside:
        inside |= more
    return frozenset(inside - {init})


def _namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:  # it ended, or belongs to somebody else, and then to no sandbox of ours
        return ""


def _state(pid: int) -> str:
    """One letter of proc(5); that of a dead process where there is none."""
    return (_stat(pid) or ["X"])[0]


def _parent(pid: int) -> int:
    return int((_stat(pid) or ["X", "0"])[1])


def _stat(pid: int) -> list[str]:
    """The fields behind the name, which may hold spaces and brackets."""
    return (text(f"/proc/{pid}/stat") or "").rpartition(")")[2].split()
