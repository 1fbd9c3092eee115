"""How much of its parent's memory a forked process has pages of its own of, because it wrote to them.

After fork(2) both share all private pages. Whoever writes to one first gets a copy, which its memory cgroup is charged with; the
page that there was stays with the other. No file tells which of the two a page is. Two sums that the kernel keeps lie above the
child's copies, each for another reason, and the lesser of them is taken:

- the child's pages within what was the parent's at the fork that nobody else maps. Pages that the parent copied are in it.
- what the cgroup is charged with as anonymous memory, without the child's pages that lie elsewhere. Those of other processes of the
  cgroup are in it.

Pages are counted in /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst) by bits 63, present, 61, of a file or shared, and
56, mapped by nobody else (since Linux 4.2). smaps has the same sums as ``Private_Dirty``, but only by whole mappings of now, and the
heap that the parent had may have grown since.
"""

from __future__ import annotations

import mmap
import os
import re
import sys
from typing import Final

__all__ = ["Ranges", "copied", "mappings"]

_WRITABLE: Final = re.compile(rb"^([0-9a-f]+)-([0-9a-f]+) .w.p", re.MULTILINE)
_ENTRY: Final = 8
_TOP: Final = 7 if sys.byteorder == "little" else 0
"""Of an entry's bytes: the one with bits 56 to 63."""
_OWN: Final = bytes([1 << (63 - 56) | 1])
"""Present and exclusive; neither swapped out (62) nor of a file or shared memory (61)."""
_AT_A_TIME: Final = 1 << 20
"""Entries: 8 MiB of them, for 4 GiB of addresses."""

Ranges = tuple[tuple[int, int], ...]
"""Start and end of mappings, in ascending order."""


def mappings(pid: int | str = "self") -> Ranges:
    """Those that are private and writable. Raises OSError."""
    with open(f"/proc/{pid}/maps", "rb") as file:
        return tuple((int(start, 16), int(end, 16)) for start, end in _WRITABLE.findall(file.read()))


def copied(pid: int, before: Ranges, charged: int | None) -> int:
    """Bytes that process `pid` copied of its parent's memory, or somewhat more.

    The kernel walks the page tables for it: about 1.4 ms per 100 MB that are in use.

    Args:
        before: the parent's `mappings` at the fork.
        charged: anonymous memory of the process's cgroup at this moment; None where it isn't known.

    Raises:
        OSError: the kernel tells nothing about that process (built without CONFIG_PROC_PAGE_MONITOR, or it has other privileges).
    """
    fd = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        within = _own(fd, before)
        if charged is None:
            return within
        return max(0, min(within, charged - _own(fd, _without(mappings(pid), before))))
    finally:
        os.close(fd)


def _own(fd: int, ranges: Ranges) -> int:
    page, pages = mmap.PAGESIZE, 0
    for start, end in ranges:
        first, last = start // page, end // page
        while first < last:
            entries = os.pread(fd, min(last - first, _AT_A_TIME) * _ENTRY, first * _ENTRY)
            if not entries:
                break
            pages += entries[_TOP::_ENTRY].count(_OWN)
            first += len(entries) // _ENTRY
    return pages * page


def _without(ranges: Ranges, others: Ranges) -> Ranges:
    """The parts of `ranges` that no one of `others` has."""
    found = []
    remaining = list(others)
    for start, end in ranges:
        while remaining and remaining[0][1] <= start:
            remaining.pop(0)
        for taken_start, taken_end in remaining:
            if taken_start >= end:
                break
            if start < taken_start:
                found.append((start, taken_start))
            start = max(start, taken_end)  # noqa: PLW2901 - what is left of it
        if start < end:
            found.append((start, end))
    return tuple(found)
