"""Coverage of lines that run in test processes: collected there, merged where coverage is reported.

Works with whatever started the measurement (pytest-cov, ``coverage run -m pytest``): `Coverage.current()` is
the one that is active. The tracer goes on in a forked child by itself; what it needs is data of its own,
kept in memory, because the SQLite file of the pytest process must not be written to from two processes.
Contexts are part of the data.
"""

from __future__ import annotations

import base64
import sys
from typing import Any

__all__ = ["Measured", "current"]


def current() -> Measured | None:
    """The active measurement; None if there is none. Imports nothing: who measures has imported coverage."""
    coverage = sys.modules.get("coverage")
    active = coverage.Coverage.current() if coverage is not None and hasattr(coverage, "Coverage") else None
    # The collector is private; without it (a future coverage) there is nothing safe to do, and nothing is lost silently:
    # lines that only tests ran show up as not covered.
    if active is None or getattr(active, "_collector", None) is None:
        return None
    return Measured(active)


class Measured:
    """One active `coverage.Coverage`, on both sides."""

    def __init__(self, active: Any) -> None:
        self._active = active
        self._data: Any = None

    def is_same(self, other: Measured) -> bool:
        return self._active is other._active

    def start(self) -> None:
        """In the child: lines that ran before the fork are the parent's to report."""
        # coverage has no public way to begin anew without stopping the tracer, which a test may be in the middle of. The sets
        # stay, frames that are running add to them.
        collector = self._active._collector  # noqa: SLF001
        for lines in list(collector.data.values()):
            lines.clear()
        self._data = sys.modules["coverage"].CoverageData(no_disk=True)
        collector.use_data(self._data, collector.static_context)

    def collected(self) -> str:
        """In the child: what ran so far, as text."""
        self._active._collector.flush_data()  # noqa: SLF001
        return base64.b64encode(self._data.dumps()).decode()

    def merge(self, collected: str) -> None:
        """In the parent, or the controller's process of it: keep it until `write`."""
        part = sys.modules["coverage"].CoverageData(no_disk=True)
        part.loads(base64.b64decode(collected))
        if self._data is None:
            self._data = part
        else:
            self._data.update(part)

    def write(self) -> None:
        """In the parent, once, before the data is saved."""
        if self._data is not None:
            self._active.get_data().update(self._data)
            self._data = None
