"""The directory of the v2 tree that runs make their subtrees in, made ready for it and given back.

A v2 group either holds processes or hands controllers to its children (the no internal processes rule,
Documentation/admin-guide/cgroup-v2.rst). So that a run's subtree can have controllers, what is in the base moves
to a leaf below it, and the controllers are enabled. The last run to end moves everything back. Runs that share a
base (workers of xdist, pytest in pytest) take turns by flock(2) on the directory.

Which base may be used is decided in `cgroup_mounts` (the caller's own cgroup) and `sandbox.delegation` (a scope
of systemd's); whose processes may be moved is decided here.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from pytest_isolate.kernel.cgroup_files import read, write

__all__ = ["LEAF", "enable", "give_back", "locked", "make_room", "needs_no_return"]

LEAF: Final = "pytest-isolate.leaf"
"""Where the processes of the base wait."""

SCOPE: Final = "pytest-isolate-"
"""How names of systemd scopes begin that were made for a run: see `sandbox.delegation`."""

_ROUNDS: Final = 20
_ENDED: Final = -1
_BUSY: Final = 0.5
"""Seconds to go on trying while the kernel answers EBUSY: a process that ends still counts for a moment."""


@contextmanager
def locked(base: str) -> Iterator[None]:
    """Alone among those who change `base`. Raises OSError."""
    fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def make_room(base: str) -> None:
    """Move every process out of `base`, to its leaf. To be called with `base` locked.

    The root of the whole tree may keep its processes. Elsewhere only the caller's own family is moved: the
    oldest of its ancestors in `base` and all that descends from it. Where the mounted tree begins at `base`, in a
    container, everything is: a program that `docker exec` started has no parent there.

    Raises:
        OSError: EBUSY if somebody else's processes are there (the text names them); EACCES, EPERM.
    """
    if not os.path.exists(f"{base}/cgroup.type"):  # only the root of the tree has none
        return
    leaf = f"{base}/{LEAF}"
    for _ in range(_ROUNDS):
        pids = _members(base)
        if not pids:
            return
        if others := [] if os.path.ismount(base) else sorted(pids - _family(pids)):
            names = ", ".join(f"{_name(pid)} (pid {pid})" for pid in others[:5])
            raise OSError(errno.EBUSY, f"it holds processes that aren't pytest's: {names}", base)
        with suppress(FileExistsError):
            os.mkdir(leaf)
        _move(pids, leaf)
    raise OSError(errno.EBUSY, "processes keep appearing in it", base)


def _move(pids: Iterable[int], directory: str) -> None:
    for pid in pids:
        try:
            write(f"{directory}/cgroup.procs", str(pid))
        except ProcessLookupError:  # ended meanwhile
            continue
        except OSError as error:
            if error.errno == errno.EINVAL and pid == 0:  # of another PID namespace: shown as 0
                raise OSError(errno.EBUSY, "it holds processes of another PID namespace", directory) from None
            raise


def _members(directory: str) -> set[int]:
    return {int(pid) for pid in read(f"{directory}/cgroup.procs").split()}


def _family(pids: set[int]) -> set[int]:
    parents = {pid: _parent(pid) for pid in pids}
    top = os.getpid() if os.getpid() in pids else os.getppid()
    while parents.get(top) in pids:
        top = parents[top]
    found = {top}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found | {pid for pid, parent in parents.items() if parent == _ENDED}


def _parent(pid: int) -> int:
    """Field 4 of proc_pid_stat(5); _ENDED if there is none any more."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except OSError:
        return _ENDED


def _name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return "?"


def enable(directory: str, controllers: Iterable[str]) -> None:
    """Hand `controllers` to the children of `directory`.

    Raises:
        OSError: EBUSY after half a second: `directory` holds processes; ENOENT: it has no such controller itself.
    """
    deadline = time.monotonic() + _BUSY
    enabled = read(f"{directory}/cgroup.subtree_control").split()
    for name in controllers:
        while name not in enabled:
            try:
                write(f"{directory}/cgroup.subtree_control", f"+{name}")
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
            else:
                break


def needs_no_return(base: str) -> bool:
    """Whether `base` was made for us alone and goes with pytest."""
    name = os.path.basename(base)
    return name.startswith(SCOPE) and name.endswith(".scope")


def give_back(base: str, controllers: Iterable[str] = ()) -> None:
    """Undo `make_room` and `enable`, unless another run still needs it. Raises OSError.

    Args:
        controllers: those that were enabled here; all, where the processes have to move back.
    """
    if needs_no_return(base):
        return
    with locked(base):
        children = [entry.name for entry in os.scandir(base) if entry.is_dir(follow_symlinks=False)]
        if [name for name in children if name != LEAF]:
            return
        wanted = read(f"{base}/cgroup.subtree_control").split() if LEAF in children else controllers
        for name in wanted:
            write(f"{base}/cgroup.subtree_control", f"-{name}")
        if LEAF in children:
            leaf = f"{base}/{LEAF}"
            for _ in range(_ROUNDS):
                if not (pids := _members(leaf)):
                    break
                _move(pids, base)
            os.rmdir(leaf)
