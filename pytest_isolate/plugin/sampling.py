"""`--isolate-sample` from the pytest process's side: a file for each test, which the builder fills.

Nobody is asked for anything at a test's end, when the builder is busy with what comes next: what is in the file by then is
what was sampled, and the last row is read here.
"""

from __future__ import annotations

import os
import time

import pytest

from pytest_isolate.kernel.cgroup import Moment, read_moment
from pytest_isolate.model.samples import Samples, pack, unpack
from pytest_isolate.plugin.collected import add_note
from pytest_isolate.sandbox import Sandbox

__all__ = ["Sampling"]

_MOST_BYTES = 1 << 22
"""Of rows. A test of a month has a tenth of it."""


class Sampling:
    """Of one test that has just joined its sandbox. Its file is the builder's as well, until the sandbox is given back.

    Args:
        interval: seconds.
    """

    def __init__(self, config: pytest.Config, box: Sandbox, interval: float) -> None:
        self._box = box
        self._interval = interval
        self._since = time.monotonic()
        self._config = config
        self._file = os.memfd_create("pytest-isolate-samples")
        self._missing = box.sample(self._file, since=self._since, interval=interval)

    def end(self) -> Samples | None:
        """What came of it, once; None where the machine has no such figures, of which the run is told then."""
        # In this order: the builder goes on, and a row of its own that is newer than the last one isn't looked at.
        data = os.pread(self._file, _MOST_BYTES, 0)
        os.close(self._file)
        last = read_moment(self._box.group) if self._box.group is not None else Moment()
        if (error := self._lacking(last)) is not None:
            add_note(self._config, error)
        if last.memory_bytes is None and last.cpu_seconds is None:
            return None
        return Samples.of(self._interval, [*unpack(data), *unpack(pack(last.row(time.monotonic() - self._since)))])

    def _lacking(self, last: Moment) -> str | None:
        """The capabilities behind the figures that there are none of, in a sentence."""
        lacking = [
            f"{what} ({name}: {self._missing.get(name, 'not counted by this kernel')})"
            for what, name, value in (
                ("memory", "cgroup-memory", last.memory_bytes),
                ("CPU time", "cgroup-cpu", last.cpu_seconds),
            )
            if value is None
        ]
        if not lacking:
            return None
        return f"--isolate-sample has nothing to read here for {' and '.join(lacking)}; python -m pytest_isolate doctor has the remedy"
