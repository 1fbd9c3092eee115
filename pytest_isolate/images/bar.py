"""How far an import is, on the command line."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pytest_isolate.model.units import format_size

if TYPE_CHECKING:
    from pytest_isolate.images.image import Progress

__all__ = ["bar"]


@contextmanager
def bar() -> Iterator[Callable[[Progress | None], None] | None]:
    """What draws a line of progress on a terminal, None takes it away; where standard error is none, there is nothing to call."""
    if not sys.stderr.isatty():
        yield None
        return
    begun = time.monotonic()

    def draw(progress: Progress | None) -> None:
        line = ""
        if progress is not None:
            share = min(1.0, progress.done_bytes / progress.total_bytes) if progress.total_bytes else 1.0
            rate = format_size(progress.done_bytes / max(0.001, time.monotonic() - begun))
            width = max(20, os.get_terminal_size(sys.stderr.fileno()).columns - 1)
            line = f"[{'#' * round(share * 20):20}] {share:4.0%}  {rate}/s  {progress.what}"[:width]
        sys.stderr.write(f"\r\x1b[K{line}")
        sys.stderr.flush()

    try:
        yield draw
    finally:
        draw(None)
