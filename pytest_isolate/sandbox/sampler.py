"""Sampling what sandboxes have, in the builder: its own process, so that neither pytest nor the test has to stop for it.

The figures come from cgroup files, which are read from outside: the kernel charges the work to the reader. The builder
makes sandboxes as well, which takes it a few milliseconds at a time; a row that is late for that says so by its time.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from pytest_isolate.kernel.cgroup import Group, read_moment
from pytest_isolate.model.samples import MOST_ROWS, pack

__all__ = ["Sampler"]

_SLOWER: Final = MOST_ROWS // 2
"""Rows after which the interval doubles, once there are `MOST_ROWS`."""


@dataclass(slots=True)
class _Sampled:
    """One sandbox: where its rows go, when its time began, and when the next row is due (time.monotonic())."""

    group: Group
    file: int
    since: float
    interval: float
    due: float
    left: int = MOST_ROWS


class Sampler:
    """Of all sandboxes of a builder."""

    def __init__(self) -> None:
        self._sampled: dict[int, _Sampled] = {}

    def begin(self, number: int, group: Group, file: int, *, since: float, interval: float) -> None:
        """Append a row to `file` now, and from now on every `interval` seconds, until `end`.

        Args:
            file: descriptor, the sampler's from now on.
            since: what the rows' times begin at, in time.monotonic()'s seconds, which all processes share.
        """
        self.end(number)
        self._sampled[number] = _Sampled(group, file, since, interval, time.monotonic())
        self.step()

    def end(self, number: int) -> None:
        """Nothing if it isn't sampled."""
        if (sampled := self._sampled.pop(number, None)) is not None:
            os.close(sampled.file)

    def step(self) -> float | None:
        """Take the rows that are due; after how many seconds it is to be called again, None for nothing."""
        if not self._sampled:
            return None
        for sampled in self._sampled.values():
            if (now := time.monotonic()) >= sampled.due:
                _take(sampled, now)
        return max(0.0, min(sampled.due for sampled in self._sampled.values()) - time.monotonic())


def _take(sampled: _Sampled, now: float) -> None:
    row = read_moment(sampled.group).row(now - sampled.since)
    with suppress(OSError):  # ENOSPC
        os.write(sampled.file, pack(row))
    sampled.left -= 1
    if not sampled.left:
        sampled.interval *= 2
        sampled.left = _SLOWER
    # The next multiple of the interval, so that what one row is late doesn't add up.
    sampled.due = sampled.since + ((now - sampled.since) // sampled.interval + 1) * sampled.interval
