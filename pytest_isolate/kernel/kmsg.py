r"""The kernel's log as `/dev/kmsg` gives it: which processes the memory caps of a cgroup killed.

For an OOM in a memory cgroup the kernel prints (mm/oom_kill.c; seen so on 6.18), among much else::

    6,421,1276454253,-;oom-kill:constraint=CONSTRAINT_MEMCG,…,oom_memcg=/RUN/BOX,task_memcg=/RUN/BOX,task=python3,pid=4945,uid=0
    3,422,1276454288,-;Memory cgroup out of memory: Killed process 4945 (python3) total-vm:82104kB, …

Only the first line names the cgroup, and it is rate limited (ten in five seconds, `oom_kill_process`); the
second one isn't. So the victims are the `task=` of the first lines, and of second lines only those whose
pid the caller knows. The record of a killing is there before the killed process is (SIGKILL is sent after it).

Each read(2) gives one record; a buffer of 5,000 takes some 30 ms, so this is read after an OOM, not before.
With `kernel.dmesg_restrict=1` an unprivileged user gets EPERM: then nothing is known, and that is no error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator
from typing import Final

from pytest_isolate.kernel.cgroup_types import OomVictim

__all__ = ["oom_victims", "records", "victims_in"]

_CHOSEN: Final = re.compile(r"oom-kill:.*,task_memcg=(?P<path>.*),task=(?P<name>.*),pid=(?P<pid>\d+),uid=\d+", re.ASCII)
_KILLED: Final = re.compile(
    r"(?:Memory cgroup out|Out) of memory.*: Killed process (?P<pid>\d+) \((?P<name>.*)\) total-vm:", re.ASCII
)
_ESCAPE: Final = re.compile(rb"\\x([0-9a-f]{2})")


def records() -> Iterator[str]:
    """The messages in the buffer, oldest first, without prefix and continuation lines. Raises OSError (EPERM)."""
    fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        while True:
            try:
                record = os.read(fd, 8192)
            except BlockingIOError:
                return
            except BrokenPipeError:  # the record was overwritten meanwhile; the next read goes on behind the gap
                continue
            message = record.partition(b";")[2].partition(b"\n")[0]
            yield _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), message).decode("utf-8", "replace")
    finally:
        os.close(fd)


def victims_in(messages: Iterable[str], group: str, known: Collection[int] = ()) -> tuple[OomVictim, ...]:
    """The processes of `group` that the messages say were killed, each once, in order.

    Args:
        group: the last part of the cgroup's path, as ``RUN/BOX``. The log gives paths from the hierarchy's root,
            which a process in a cgroup namespace or container doesn't know; a run's name is unique.
        known: pids (of the initial PID namespace) that are known to have been in the group.
    """
    inside = re.compile(rf".*/{re.escape(group)}(/.*)?", re.DOTALL)
    found: dict[int, OomVictim] = {}
    for message in messages:
        if "oom-kill:" in message and (match := _CHOSEN.search(message)):
            belongs = inside.fullmatch(match["path"]) is not None
        elif match := _KILLED.search(message):
            belongs = int(match["pid"]) in known
        else:
            continue
        if belongs:
            found.setdefault(int(match["pid"]), OomVictim(match["name"], int(match["pid"])))
    return tuple(found.values())


def oom_victims(group: str, known: Collection[int] = ()) -> tuple[OomVictim, ...]:
    """`victims_in` the kernel's log; empty where it can't be read."""
    try:
        return victims_in(records(), group, known)
    except OSError:
        return ()
