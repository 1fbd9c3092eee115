"""How the running program was started, for remedies that say what to type."""

from __future__ import annotations

import os
import shlex
import sys
from typing import Final

__all__ = ["own_command"]

_MOST: Final = 200


def own_command() -> str:
    """The command line as a shell takes it; ``pytest …`` where it is that, or too long to repeat."""
    words = list(sys.orig_argv)
    if words[1:3] == ["-m", "pytest"]:
        words = ["pytest", *words[3:]]
    elif len(words) > 1 and os.path.basename(words[1]) in ("pytest", "pytest-isolate"):
        words = words[1:]
    text = shlex.join(words)
    return text if len(text) <= _MOST else "pytest …"
