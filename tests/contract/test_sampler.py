"""The builder's sampler on groups of this machine, whatever their layout."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator

import pytest

from pytest_isolate.kernel.cgroup import Caps, Hierarchy, read_moment, read_usage
from pytest_isolate.model.samples import MOST_ROWS, unpack
from pytest_isolate.sandbox import Sandbox
from pytest_isolate.sandbox.sampler import Sampler
from tests.support.capabilities import requires
from tests.support.cgroups import allocate, burn, inside, own_hierarchy

MIB = 1 << 20
pytestmark = requires("root", "cgroup-cpu", "cgroup-memory")


@pytest.fixture
def hierarchy() -> Iterator[Hierarchy]:
    with own_hierarchy() as hierarchy:
        yield hierarchy


@pytest.fixture
def file() -> Iterator[int]:
    """The sampler closes its descriptor; this one is the reader's."""
    fd = os.memfd_create("rows")
    yield fd
    os.close(fd)


def test_moment_tells_the_counters_of_the_usage_and_what_is_charged_now(hierarchy: Hierarchy) -> None:
    group = hierarchy.create("box", Caps(cpu=0.2, memory=64 * MIB))

    def hold() -> float:
        held = bytearray(b"x") * (32 * MIB)
        burn(0.6)
        return (read_moment(group).memory_bytes or 0) / len(held)

    assert 1 <= inside(group, hold).result < 1.5
    inside(group, lambda: allocate(128 * MIB))
    ended, usage = read_moment(group), read_usage(group)
    assert ended.oom_kills == 1
    assert (ended.cpu_seconds, ended.cpu_throttled_seconds) == (usage.cpu_seconds, usage.cpu_throttled_seconds)
    assert ended.memory_bytes is not None
    assert ended.memory_bytes < 8 * MIB


def test_group_that_is_gone_has_no_figures(hierarchy: Hierarchy) -> None:
    group = hierarchy.create("box", Caps())
    while not hierarchy.remove(group):
        time.sleep(0.01)
    moment = read_moment(group)
    assert (moment.memory_bytes, moment.oom_kills) == (None, None)


def test_rows_are_taken_at_multiples_of_the_interval_and_slower_after_many(hierarchy: Hierarchy, file: int) -> None:
    sampler, group = Sampler(), hierarchy.create("box", Caps())
    assert sampler.step() is None
    since = time.monotonic()
    sampler.begin(1, group, os.dup(file), since=since, interval=0.002)
    while len(times := [row[0] for row in unpack(os.pread(file, 1 << 16, 0))]) < MOST_ROWS + 100:
        pause = sampler.step()
        assert pause is not None
        assert pause <= 0.0041
        time.sleep(pause)

    def places(part: list[float], interval: float) -> set[int]:
        return {int(seconds / interval + 1e-6) for seconds in part}

    # On a busy machine rows are late or missing, but never two in one interval.
    early, late = times[1:MOST_ROWS], times[MOST_ROWS + 1 :]
    assert len(places(early, 0.002)) == len(early) > len(places(early, 0.004))
    assert len(places(late, 0.004)) == len(late)


def test_end_closes_the_file_and_nothing_more_is_taken(hierarchy: Hierarchy, file: int) -> None:
    sampler, group, other = Sampler(), hierarchy.create("box", Caps()), os.dup(file)
    sampler.begin(1, group, other, since=time.monotonic(), interval=0.01)
    sampler.end(1)
    sampler.end(1)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(other)
    assert sampler.step() is None
    assert len(unpack(os.pread(file, 1 << 16, 0))) == 1


def test_builder_samples_between_making_sandboxes_until_one_is_given_back(file: int) -> None:
    code = "import time; held = bytearray(b'x') * (32 << 20); time.sleep(0.4)"
    with Sandbox() as box:
        box.sample(file, since=time.monotonic(), interval=0.02)
        for _ in range(2):
            box.run([sys.executable, "-c", code])
    rows = unpack(os.pread(file, 1 << 16, 0))
    assert len(rows) > 20
    assert max(row[1] or 0 for row in rows) > 32 * MIB
    assert rows[-1][2]
    time.sleep(0.1)
    assert len(unpack(os.pread(file, 1 << 16, 0))) == len(rows)


def test_sampling_a_sandbox_that_has_ended_is_nothing_and_loses_nothing(file: int) -> None:
    with Sandbox() as box:
        builder, number = box._place.entrance.builder, box.number
        builder.sample(number + 100, file, since=time.monotonic(), interval=0.01)
        assert box.run(["echo", "1"]).stdout == b"1\n"
    assert os.pread(file, 1, 0) == b""
