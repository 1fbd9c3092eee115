"""Lines that a test process leaves for the pytest process, in a small shared anonymous mapping made before the fork.

Not over the report channel: they survive a crash of the process, come from its forked children as well, and no descriptor that a
test might close is involved.
"""

from __future__ import annotations

import mmap
from typing import Final

__all__ = ["Board"]

_HEADER: Final = 4


class Board:
    """A byte count, then lines; one serves any number of tests, one after the other.

    Args:
        size: of the mapping, in bytes.
        longest: characters of a line; what is longer is cut off.
    """

    def __init__(self, size: int, longest: int) -> None:
        self._size, self._longest = size, longest
        self._map = mmap.mmap(-1, size)  # MAP_SHARED | MAP_ANONYMOUS

    def close(self) -> None:
        self._map.close()

    def clear(self) -> None:
        """In the parent, before each fork."""
        self._map[:_HEADER] = bytes(_HEADER)

    def note(self, line: str) -> None:
        """Append one; silently full at the end of the mapping."""
        data = line[: self._longest].replace("\n", " ").encode("utf-8", "replace") + b"\n"
        used = int.from_bytes(self._map[:_HEADER], "little")
        if _HEADER + used + len(data) > self._size:
            return
        self._map[_HEADER + used : _HEADER + used + len(data)] = data
        self._map[:_HEADER] = (used + len(data)).to_bytes(_HEADER, "little")

    def collected(self) -> list[str]:
        """In the parent: each line once, in the order of first notes."""
        used = min(int.from_bytes(self._map[:_HEADER], "little"), self._size - _HEADER)
        lines = self._map[_HEADER : _HEADER + used].decode("utf-8", "replace").splitlines()
        return list(dict.fromkeys(line for line in lines if line.isprintable()))
