"""Life and death of cgroup directories: names of runs, removal, and what dead runs left.

The name of a run's subtree says who owns it: `pytest-isolate-PID-STARTTIME-N.PIDNS`. A PID alone is
reused; with its start time (clock ticks since boot) it is unique, and the PID namespace's inode keeps a run in
one container from judging the pids of another.

Nothing here kills and nothing here waits: rmdir of a cgroup that still holds a task, a dying one included,
is EBUSY, and the caller asks again later.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final

from pytest_isolate.kernel.cgroup_files import write

__all__ = ["clean_up", "is_stale", "remove_tree", "run_name", "sweep_stale"]

_NAME: Final = re.compile(r"pytest-isolate-(\d+)-(\d+)-\d+\.(\d+)", re.ASCII)


def run_name(pid: int, number: int = 0) -> str:
    """Name of the subtree of `pid`'s run; `number` tells apart several pools of one process. Raises OSError."""
    return f"pytest-isolate-{pid}-{_starttime(pid)}-{number}.{_pid_namespace()}"


def _starttime(pid: int) -> int:
    """Field 22 of proc_pid_stat(5), counted behind the last bracket: the name in field 2 may hold anything."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[19])


def _pid_namespace() -> int:
    return os.stat("/proc/self/ns/pid").st_ino


def is_stale(name: str) -> bool:
    """Whether `name` is that of a run which is known to have ended."""
    if not (match := _NAME.fullmatch(name)) or int(match[3]) != _pid_namespace():
        return False
    try:
        return _starttime(int(match[1])) != int(match[2])
    except (FileNotFoundError, ProcessLookupError):  # ESRCH: it ended between open and read
        return True
    except OSError:  # hidden by hidepid=, say: not known
        return False


def remove_tree(directory: str) -> bool:
    """rmdir `directory` and the cgroups below it; False if one of them is busy. A missing one is a removed one.

    Raises:
        OSError: any answer but ENOENT, EBUSY and ENOTEMPTY; it names the directory.
    """
    for attempt in (0, 1):
        try:
            os.rmdir(directory)
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                raise
            # Tasks and child cgroups give the same EBUSY; only the latter can be helped, once.
            if attempt or not _remove_children(directory):
                return False
        else:
            return True
    return False


def _remove_children(directory: str) -> bool:
    """Whether there were children, all of them now removed."""
    removed = [remove_tree(child) for child in _children(directory)]
    return bool(removed) and all(removed)


def _children(directory: str) -> Iterator[str]:
    try:
        with os.scandir(directory) as entries:
            yield from [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return


def clean_up(directories: Iterable[str], timeout: float = 2.0) -> list[str]:
    """Remove whole subtrees, waiting for their last tasks to be gone; what remained after `timeout` seconds.

    For whoever outlives the builder: the processes inside are dead or dying by then.
    """
    deadline = time.monotonic() + timeout
    left = list(directories)
    for directory in left:
        with suppress(OSError):  # v2 since Linux 5.14: also what has joined the group and no namespace yet
            write(f"{directory}/cgroup.kill", "1")
    while left := [directory for directory in left if not _removed(directory)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.005)
    return left


def _removed(directory: str) -> bool:
    try:
        return remove_tree(directory)
    except OSError:
        return False


def sweep_stale(bases: Iterable[str], *, everywhere: bool = False) -> list[str]:
    """Remove the empty subtrees of runs that ended without removing them; returns those removed.

    Safe beside live runs: theirs are told by pid and start time, busy ones are left, and whoever removes a
    directory second finds it removed.

    Args:
        bases: directories that runs make their subtrees in.
        everywhere: look through the whole trees below `bases`, not only directly in them.
    """
    found = [path for base in bases for path in _runs(base, deep=everywhere) if is_stale(os.path.basename(path))]
    return [path for path in found if _removed(path)]


def _runs(base: str, *, deep: bool) -> Iterator[str]:
    for path in _children(base):
        if _NAME.fullmatch(os.path.basename(path)):
            yield path
        elif deep:
            yield from _runs(path, deep=deep)
