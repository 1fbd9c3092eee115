"""Whether the machine has a count of what a test's budget limits, found out by asking a sandbox for its figures before the test runs.

A limit that nothing can be held against must not pass for one that was kept: it is a missing capability, as a cap that can't be set is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Final

from pytest_isolate.kernel.copied_pages import copied
from pytest_isolate.model.errors import MissingCapability
from pytest_isolate.model.figures import FIGURES
from pytest_isolate.model.spec import Spec
from pytest_isolate.sandbox import Sandbox

__all__ = ["Measurable"]

_ALWAYS: Final = frozenset({"cpu", "wall", "processes_left"})
"""Without a cgroup the CPU time is what wait4(2) tells."""

_CONTROLLERS: Final[Mapping[str, str]] = {
    "memory": "memory", "memory_own": "memory", "pids": "pids", "io_read": "io", "io_write": "io",
}  # fmt: skip


class Measurable:
    """
    Args:
        missing: by capability, why the machine doesn't have it and what helps.
    """

    def __init__(self, missing: Callable[[], Mapping[str, tuple[str, str]]]) -> None:
        self._missing = missing
        self._known: set[tuple[str, str, str]] = set()

    def check(self, spec: Spec, box: Sandbox) -> None:
        """Raises MissingCapability for the first limit on something that `box` has no count of; one that another had is taken as known."""
        wanted = {(figure, spec.net.mode, spec.upper) for figure, _limit in spec.budget if figure not in _ALWAYS}
        if wanted <= self._known:
            return
        usage = box.usage()
        for key in sorted(wanted - self._known):
            figure = "memory" if key[0] == "memory_own" else key[0]
            if figure == "instructions":  # of processes, of which there are none yet
                _try_counters()
            elif FIGURES[figure].of(usage) is None:
                raise self._error(key[0])
            if key[0] == "memory_own":
                _try_pagemap()
            self._known.add(key)

    def _error(self, figure: str) -> MissingCapability:
        from pytest_isolate.machine.explain import explained

        capability = f"cgroup-{_CONTROLLERS[figure]}" if figure in _CONTROLLERS else figure
        why, hint = self._missing().get(capability, ("", ""))
        if not why:
            why = f"this kernel keeps no count of it ({FIGURES[figure].meaning})"
            hint = "pids= caps what pids.peak would count; the kernel has that since Linux 6.1" if figure == "pids" else ""
        error = explained(MissingCapability(capability, [f"budget.{figure}"], why, hint or f"leave out the budget for {figure}"))
        assert isinstance(error, MissingCapability)
        return error


def _try_counters() -> None:
    from pytest_isolate.machine.counters import uncounted

    if (cause := uncounted()) is not None:
        raise MissingCapability("instructions", ["budget.instructions"], cause.why, cause.remedy)


def _try_pagemap() -> None:
    try:
        copied(os.getpid(), (), None)
    except OSError as error:
        raise MissingCapability(
            "pagemap", ["budget.memory_own"], f"/proc/self/pagemap: {error.strerror}",
            "a kernel with CONFIG_PROC_PAGE_MONITOR=y, or a budget for memory instead",
        ) from None  # fmt: skip
