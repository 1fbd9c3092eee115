"""The test that runs now and the sandboxes beside it, read from the kernel for whoever shows them.

Nothing here asks the builder or the test process, which may be busy: cgroup files and /proc answer at once, also in the
handler of a signal.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pytest_isolate.kernel.cgroup import count_tasks, read_moment
from pytest_isolate.model.errors import IsolateError
from pytest_isolate.plugin.fixtures import protocol_key
from pytest_isolate.report.live import Running, block
from pytest_isolate.sandbox import Sandbox

if TYPE_CHECKING:
    from pytest_isolate.plugin.attempt import Attempt

__all__ = ["running_test", "status_text"]


def running_test(attempt: Attempt) -> Running | None:
    """The test of `attempt`; None once its test process is gone."""
    if (now := attempt.now) is None:
        return None
    box, phase, started, deadline = now
    read = time.perf_counter()
    left = deadline - read if deadline is not None else None
    base = _read(box, attempt.item.nodeid)
    return replace(base, spec=attempt.spec, phase=phase, seconds=read - started, left=left)


def _read(box: Sandbox, name: str) -> Running:
    group = box.group
    if group is None:
        return Running(name, box.spec)
    moment = read_moment(group)
    return Running(
        name,
        box.spec,
        cpu_seconds=moment.cpu_seconds,
        cpu_throttled_seconds=moment.cpu_throttled_seconds,
        memory_bytes=moment.memory_bytes,
        tasks=count_tasks(group),
    )


def status_text(config: pytest.Config) -> str:
    """What SIGUSR1 is answered with."""
    protocol = config.stash[protocol_key]
    worker = str(getattr(config, "workerinput", {}).get("workerid", ""))
    with suppress(IsolateError):  # it is given back at this moment
        if protocol.attempt is not None and (running := running_test(protocol.attempt)) is not None:
            now = protocol.attempt.now
            processes = now[0].processes() if now is not None else []
            busy = running.cpu_seconds / running.seconds if running.cpu_seconds is not None and running.seconds > 0 else None
            beside = list(_beside(protocol.supply.companions()))
            return block(replace(running, busy=busy, processes=processes), beside, worker)
    return f"isolate{f' [{worker}]' if worker else ''}: no isolated test is running\n"


def _beside(boxes: dict[str, Sandbox]) -> Iterator[Running]:
    for name, box in boxes.items():
        with suppress(IsolateError):
            yield replace(_read(box, name), processes=box.processes())
