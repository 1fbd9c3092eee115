"""Work done by a process inside a group, and the watch over what is left in the cgroup trees."""

from __future__ import annotations

import json
import os
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pytest_isolate.kernel.cgroup import Group, join

__all__ = ["Ended", "directories_of", "ended", "inside", "start_inside"]


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
    """Every cgroup directory of a run of process `pid`, in any hierarchy."""
    return [
        os.path.join(path, name)
        for path, names, _files in os.walk("/sys/fs/cgroup")
        for name in names
        if name.startswith(f"pytest-isolate-{pid}-")
    ]
