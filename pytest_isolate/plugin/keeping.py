"""``--isolate-keep``: the files that a test wrote are kept as a directory, in pytest's cache or where the run says."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pytest

from pytest_isolate.plugin.collected import add_note
from pytest_isolate.plugin.settings import settings_key

__all__ = ["Keeping"]

_LONGEST: Final = 100


@dataclass(frozen=True, slots=True)
class Keeping:
    """Of one run that keeps something.

    Attributes:
        everything: of tests that pass, too.
        base: where the directories go.
        places: gives the host paths that every sandbox has read-write.
    """

    config: pytest.Config
    everything: bool
    base: str
    places: Callable[[], Sequence[str]]

    @classmethod
    def of(cls, config: pytest.Config, places: Callable[[], Sequence[str]]) -> Keeping | None:
        """None for a run that keeps nothing."""
        settings = config.stash[settings_key]
        if settings.keep == "none":
            return None
        return cls(config, settings.keep == "all", settings.keep_to, places)

    def directory(self, nodeid: str) -> str:
        """Of a test: the same in every run."""
        words = re.sub(r"[^\w.-]+", "-", nodeid, flags=re.ASCII).strip("-.")[-_LONGEST:]
        return os.path.join(self.base, f"{words}-{hashlib.sha256(nodeid.encode(errors='surrogateescape')).hexdigest()[:8]}")

    def about(self, nodeid: str) -> dict[str, Any]:
        """What is written down beside."""
        return {"nodeid": nodeid, "cwd": os.getcwd(), "places": list(self.places()), "time": time.time()}

    def kept(self) -> None:
        add_note(self.config, f"what tests wrote is kept in {self.base}: python -m pytest_isolate shell NODEID opens it again")

    def not_kept(self, nodeid: str, why: str) -> None:
        add_note(self.config, f"what {nodeid} wrote isn't kept: {why}")
