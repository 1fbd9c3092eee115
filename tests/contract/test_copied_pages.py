"""`kernel.copied_pages` on real forks: what a child copied by writing, whatever else it has, and whatever its parent does."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pytest_isolate.kernel.copied_pages import copied, mappings

MIB = 1 << 20
SLACK = 4 * MIB
"""What any Python process writes to of its parent's by running on."""


def touch(what: bytearray | mmap.mmap, size: int) -> None:
    for place in range(0, size, mmap.PAGESIZE):
        what[place] = 1


@pytest.fixture(scope="module")
def heap() -> bytearray:
    buffer = bytearray(32 * MIB)
    touch(buffer, len(buffer))
    return buffer


@contextmanager
def child(work: Callable[[], object]) -> Iterator[int]:
    """A fork that has done `work` and keeps its outcome as long as the context lasts."""
    ready, tell = os.pipe()
    wait, leave = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            kept = work()
            os.write(tell, b"1")
            os.close(leave)
            os.read(wait, 1)
            del kept
        finally:
            os._exit(0)
    try:
        os.read(ready, 1)
        yield pid
    finally:
        for fd in (ready, tell, wait, leave):
            os.close(fd)
        os.waitpid(pid, 0)


def made(size: int) -> mmap.mmap:
    """A mapping of its own: malloc may put an object into a gap of the heap, which is a copy of pages that were there."""
    area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    touch(area, size)
    return area


@pytest.mark.parametrize("part", [0, 8, 32])
def test_pages_that_the_child_writes_to_are_counted(heap: bytearray, part: int) -> None:
    before = mappings()
    with child(lambda: touch(heap, part * MIB)) as pid:
        assert part * MIB <= copied(pid, before, None) <= part * MIB + SLACK


@pytest.mark.usefixtures("heap")
def test_what_the_child_makes_is_not(heap: bytearray) -> None:
    before = mappings()
    with child(lambda: made(32 * MIB)) as pid:
        assert copied(pid, before, None) <= SLACK


def test_pages_that_the_parent_wrote_to_are_told_by_the_charge(heap: bytearray) -> None:
    before = mappings()
    with child(lambda: made(8 * MIB)) as pid:
        touch(heap, 16 * MIB)
        assert copied(pid, before, None) >= 16 * MIB  # nobody else maps the child's pages any more
        # A cgroup of its own would be charged with what it made and what little it copied.
        assert 2 * MIB - SLACK <= copied(pid, before, 10 * MIB) <= 2 * MIB + SLACK


def test_charge_below_what_the_child_made_is_no_negative_number() -> None:
    before = mappings()
    with child(lambda: made(8 * MIB)) as pid:
        assert copied(pid, before, 0) == 0


def test_mapping_that_grew_or_shrank_since_counts_as_far_as_it_was_there() -> None:
    with mmap.mmap(-1, 16 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
        area[:] = bytes(len(area))
        before = mappings()
        with child(lambda: area.resize(4 * MIB) or touch(area, 4 * MIB)) as pid:
            assert 4 * MIB <= copied(pid, before, None) <= 4 * MIB + SLACK


def test_process_that_is_gone_is_an_error() -> None:
    with child(lambda: None) as pid:
        pass
    with pytest.raises(OSError):
        copied(pid, (), None)
