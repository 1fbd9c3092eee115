"""Runs of suites that write down what happens in them, and in which process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from tests.support.plain_runs import How, Said, copied, run

__all__ = ["Ran", "ran"]

OWN_NAMESPACE: Final = os.readlink("/proc/self/ns/pid")


@dataclass(frozen=True)
class Ran:
    """What happened, in order, and whether it happened in the pytest process."""

    said: Said
    events: list[str]
    outside: list[bool]

    def where(self, event: str) -> list[bool]:
        return [outside for seen, outside in zip(self.events, self.outside, strict=True) if seen.startswith(event)]

    def of(self, *words: str) -> list[str]:
        return [event for event in self.events if event.startswith(words)]


def ran(suite: str, tmp_path: Path, how: How, *args: str, env: Mapping[str, str] = MappingProxyType({})) -> Ran:
    """Run a suite of `tests/suites` that writes its events to ``$ORDER_LOG``, each with the PID namespace it happened in."""
    directory = copied(suite, tmp_path)
    log = tmp_path / "order.log"
    said = run(directory, *args, how=how, env={"ORDER_LOG": str(log), **env})
    lines = [line.rpartition(" ") for line in log.read_text().splitlines()]
    return Ran(said, [event for event, _, _ in lines], [namespace == OWN_NAMESPACE for _, _, namespace in lines])
