"""`model.samples`: rows on their way through a file, and what is kept of many."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from pytest_isolate.model.samples import COLUMNS, MOST_ROWS, Row, Samples, pack, unpack


def row(seconds: float) -> Row:
    return seconds, int(seconds * 1000), seconds / 2, None, 0


def test_rows_come_back_with_what_is_unknown_and_half_a_row_is_left_out() -> None:
    rows: list[Row] = [(0.5, 1 << 40, 0.25, None, 3), (1.0, None, None, 0.125, None)]
    data = b"".join(map(pack, rows))
    assert unpack(data) == rows
    assert unpack(data[:-1]) == rows[:1]
    assert len(rows[0]) == len(COLUMNS)


def test_few_rows_stay_as_they_are() -> None:
    samples = Samples.of(0.1, [row(number / 10) for number in range(MOST_ROWS)])
    assert samples.interval == 0.1
    assert len(samples.rows) == MOST_ROWS


@pytest.mark.parametrize(
    ("count", "interval"), [(MOST_ROWS + 1, 0.2), (2 * MOST_ROWS - 1, 0.2), (2 * MOST_ROWS + 1, 0.4), (7000, 1.6)]
)
def test_many_rows_are_thinned_by_doubling_the_interval(count: int, interval: float) -> None:
    late = [0.0, 0.003, 0.001]
    rows = [row(number / 10 + late[number % 3]) for number in range(count)]
    samples = Samples.of(0.1, rows)
    assert samples.interval == pytest.approx(interval)
    assert MOST_ROWS * 0.4 < len(samples.rows) <= MOST_ROWS
    times = [found[0] for found in samples.rows]
    gaps = [after - before for before, after in pairwise(times)]
    assert max(gaps) < interval * 1.1
    assert min(gaps[:-1]) > interval * 0.9
    assert (times[0], times[-1]) == (rows[0][0], round(rows[-1][0], 4))


def test_slower_rows_of_a_long_test_set_the_pace_of_the_earlier_ones() -> None:
    begun = [row(number * 0.01) for number in range(500)]
    slower = [row(5 + number * 0.02) for number in range(250)]
    samples = Samples.of(0.01, [*begun, *slower])
    assert samples.interval == 0.02
    assert len(samples.rows) == pytest.approx(500, abs=2)


def test_json_at_both_ends() -> None:
    samples = Samples.of(0.1, [row(0.0), row(0.1)])
    data = json.loads(json.dumps(samples.to_json()))
    assert data["columns"] == ["seconds", "memory_bytes", "cpu_seconds", "cpu_throttled_seconds", "oom_kills"]
    assert Samples.from_json(data) == samples
