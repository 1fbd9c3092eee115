"""Text by the cells it takes on a terminal, not by its characters: measuring, cutting, wrapping.

Wide characters (CJK, most emoji) take two cells, combining ones none. What a terminal would obey instead
of show, and what the stream's encoding can't say, is escaped first (`printable`), because node ids carry
file names and process names carry whatever a test called `prctl` with.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

__all__ = ["cut_end", "cut_middle", "pad", "printable", "width_of", "wrap", "wrap_items"]


def width_of(text: str) -> int:
    if text.isascii():
        return len(text)
    return sum(_cells(character) for character in text)


def _cells(character: str) -> int:
    if character.isascii():
        return 1
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def printable(text: str, encoding: str) -> str:
    """`text` on one line: white space collapsed, controls and what `encoding` lacks as backslash escapes."""
    text = " ".join(text.split())
    if not text.isprintable():
        text = "".join(
            character if character.isprintable() else character.encode("unicode_escape").decode("ascii") for character in text
        )
    return text.encode(encoding, "backslashreplace").decode(encoding)


def pad(text: str, width: int, *, right: bool = False) -> str:
    """`text` filled with spaces to `width` cells; `right` puts them before it."""
    space = " " * max(0, width - width_of(text))
    return space + text if right else text + space


def _head(text: str, width: int) -> str:
    """The longest beginning of `text` that takes at most `width` cells."""
    used = 0
    for index, character in enumerate(text):
        used += _cells(character)
        if used > width:
            return text[:index]
    return text


def _tail(text: str, width: int) -> str:
    start, used = len(text), 0
    while start and (used := used + _cells(text[start - 1])) <= width:
        start -= 1
    while start < len(text) and not _cells(text[start]):
        start += 1  # a combining character goes with the letter it belongs to
    return text[start:]


def cut_end(text: str, width: int, ellipsis: str) -> str:
    if width_of(text) <= width:
        return text
    if width < len(ellipsis):
        return _head(text, max(0, width))
    return _head(text, width - len(ellipsis)) + ellipsis


def cut_middle(text: str, width: int, ellipsis: str) -> str:
    """`text` in at most `width` cells; a third of what stays is its beginning, since a node id's end tells more."""
    if width_of(text) <= width:
        return text
    room = width - len(ellipsis)
    if room < 3:
        return cut_end(text, width, ellipsis)
    head = _head(text, room // 3)
    return head + ellipsis + _tail(text, room - width_of(head))


def wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width` cells (at least one line), broken at spaces, in a word only where it is longer."""
    return wrap_items(text.split(" "), width)


def wrap_items(items: Iterable[str], width: int) -> list[str]:
    """`items` joined by spaces to lines of at most `width` cells, each item on one line where it fits."""
    width = max(1, width)
    lines = [""]
    for item in items:
        joined = f"{lines[-1]} {item}" if lines[-1] else item
        if width_of(joined) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        rest = item
        while width_of(rest) > width:
            lines[-1] = _head(rest, width) or rest[0]
            rest = rest[len(lines[-1]) :]
            lines.append("")
        lines[-1] = rest
    return [line for line in lines if line] or [""]
