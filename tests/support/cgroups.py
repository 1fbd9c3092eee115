"""Work done by a process inside a group, and the watch over what is left in the cgroup trees."""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pytest_isolate.kernel.cgroup import Group, Hierarchy, detect, join, run_name
from pytest_isolate.sandbox.delegation import obtain

__all__ = ["Ended", "allocate", "burn", "directories_of", "ended", "inside", "own_hierarchy", "start_inside"]


@dataclass(frozen=True)
class Ended:
    """How a process inside ended: `result` of its work, or None where a signal or an exception ended it."""

    pid: int
    status: int
    result: Any

    @property
    def signal(self) -> int:
        return os.WTERMSIG(self.status) if os.WIFSIGNALED(self.status) else 0


def start_inside(group: Group, work: Callable[[], Any]) -> tuple[int, int]:
    """Fork a process that joins `group` and does `work`: its pid, and where its result can be read."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            signal.alarm(20)
            join(group)
            os.write(writing, json.dumps(work()).encode())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os.close(writing)
    return pid, reading


def ended(pid: int, reading: int) -> Ended:
    """The end of a process that `start_inside` gave."""
    with os.fdopen(reading, "rb") as file:
        data = file.read()
    _pid, status = os.waitpid(pid, 0)
    return Ended(pid, status, json.loads(data) if data else None)


def inside(group: Group, work: Callable[[], Any]) -> Ended:
    """Do `work` in a process of its own that has joined `group`."""
    return ended(*start_inside(group, work))


def directories_of(pid: int) -> list[str]:
    """Every cgroup directory of a run of process `pid`, in any hierarchy, but for a scope that goes with the process."""
    return [
        os.path.join(path, name)
        for path, names, _files in os.walk("/sys/fs/cgroup")
        for name in names
        if name.startswith(f"pytest-isolate-{pid}-") and not name.endswith(".scope")
    ]


def burn(seconds: float) -> float:
    """Wall time of `seconds` and a little more of pure computing."""
    start = time.monotonic()
    while time.monotonic() < start + seconds:
        sum(range(1000))
    return time.monotonic() - start


def allocate(size: int) -> int:
    return len(bytearray(b"x") * size)


@contextmanager
def own_hierarchy() -> Iterator[Hierarchy]:
    """A run of this process, which systemd has given a scope where it takes one; all removed at the end."""
    obtain((), None)
    hierarchy = detect()
    hierarchy.create_run(run_name(os.getpid(), next(_numbers)))
    try:
        yield hierarchy
    finally:
        removed = hierarchy.remove_run()
        hierarchy.leave()
    assert removed


_numbers = itertools.count()  # the kernel's log outlives a run: names must not recur
