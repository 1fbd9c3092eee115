"""The vocabulary of a rendering: spans with style names, lines of spans, and what the terminal can show.

Style names are those of pytest's terminal writer (``bold``, ``red``, …), which knows whether to colour.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from pytest_isolate.report.width import cut_end, width_of

__all__ = ["Line", "Span", "Style", "clip", "plain"]

Span = tuple[str, tuple[str, ...]]
"""A piece of text and the names of its styles."""

Line = tuple[Span, ...]

_BLOCKS = "▏▎▍▌▋▊▉█░"


@dataclass(frozen=True)
class Style:
    """What to show and what it is shown on.

    Attributes:
        width: cells of a line.
        encoding: of the stream.
        verbosity: pytest's: below 0 problems and one total line, above 0 every column.
        top: how many of the heaviest tests; 0 for all.
    """

    width: int = 80
    encoding: str = "utf-8"
    verbosity: int = 0
    top: int = 5

    @cached_property
    def blocks(self) -> bool:
        """Whether bars can be drawn with block elements."""
        return _sayable(_BLOCKS, self.encoding)

    @cached_property
    def ellipsis(self) -> str:
        return "…" if _sayable("…", self.encoding) else "..."

    def bar(self, share: float, cells: int) -> tuple[str, str]:
        """The full and the empty part of a bar, together `cells` wide; anything above 0 shows."""
        share = min(1.0, max(0.0, share))
        if not self.blocks:
            full = max(int(share * cells), int(share > 0))
            return "#" * full, "." * (cells - full)
        eighths = max(int(share * cells * 8), int(share > 0))
        full, part = divmod(eighths, 8)
        drawn = "█" * full + (_BLOCKS[part - 1] if part else "")
        return drawn, "░" * (cells - len(drawn))


def _sayable(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def plain(line: Line) -> str:
    return "".join(text for text, _styles in line)


def clip(line: Line, width: int, ellipsis: str) -> Line:
    """`line` in at most `width` cells, without trailing space: the last guard, whatever was laid out."""
    kept: list[Span] = []
    used = 0
    for text, styles in line:
        cut = cut_end(text, width - used, ellipsis)
        used += width_of(cut)
        kept.append((cut, styles))
    while kept and not kept[-1][0].rstrip():
        kept.pop()
    if kept:
        kept[-1] = (kept[-1][0].rstrip(), kept[-1][1])
    return tuple(kept)
