"""Medians, how sure they are, and the verdicts that follow: known values, and what comes out of noise of every kind."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from itertools import product
from math import comb
from statistics import median

import pytest

from pytest_isolate.model.growth import Limit, parse_limits
from pytest_isolate.report.comparison import MATERIAL, Change, judged
from pytest_isolate.report.spread import CONFIDENCE, FEWEST, Spread

# As printed in tables of confidence intervals for the median: number of values, ranks of the bounds, per cent.
RANKS = [
    (6, 1, 6, 96.9),
    (7, 1, 7, 98.4),
    (9, 2, 8, 96.1),
    (10, 2, 9, 97.9),
    (12, 3, 10, 96.1),
    (15, 4, 12, 96.5),
    (17, 5, 13, 95.1),
    (20, 6, 15, 95.9),
]


@pytest.mark.parametrize("number,low,high,percent", RANKS)
def test_ranks_are_those_of_printed_tables(number: int, low: int, high: int, percent: float) -> None:
    found = Spread.of(range(1, number + 1))
    assert (found.low, found.high) == (low, high)
    outside = 2 * sum(comb(number, heads) for heads in range(low)) / 2**number
    assert 100 * (1 - outside) == pytest.approx(percent, abs=0.06)


@pytest.mark.parametrize("number", range(1, 13))
def test_bounds_enclose_the_median_as_surely_as_they_say_and_none_that_are_surer_are_left_out(number: int) -> None:
    """Every outcome of so many fair coins: which values are below the true median."""
    found = Spread.of(range(1, number + 1))
    below = Counter(sum(coins) for coins in product((0, 1), repeat=number))

    def sure(rank: int) -> float:
        return sum(count for heads, count in below.items() if rank <= heads <= number - rank) / 2**number

    if found.low is None:
        assert number < FEWEST
        assert sure(1) < CONFIDENCE
        return
    rank = int(found.low)
    assert sure(rank) >= CONFIDENCE
    assert rank == number // 2 or sure(rank + 1) < CONFIDENCE


def test_many_values_are_no_trouble() -> None:
    found = Spread.of(range(5001))
    assert found.median == 2500
    assert found.low is not None
    assert 2400 < found.low < 2500


Noise = Callable[[random.Random], float]

NOISES: dict[str, Noise] = {
    "even": lambda source: source.uniform(0.95, 1.05),
    "normal": lambda source: source.gauss(1, 0.05),
    "long tail": lambda source: 1 + source.expovariate(20),
    "two levels": lambda source: source.choice([1.0, 1.0, 1.0, 1.4]),
    "outliers": lambda source: 1.0 if source.random() < 0.9 else 5.0,
}


def change(source: random.Random, noise: Noise, runs: int, factor: float, limit: Limit | None = None) -> Change:
    def spread(by: float) -> Spread:
        return Spread.of([100 * by * noise(source) for _ in range(runs)])

    return judged("test", "memory", spread(1), spread(factor), limit)


@pytest.mark.parametrize("name", NOISES)
@pytest.mark.parametrize("runs", [6, 9, 15])
def test_noise_alone_is_hardly_ever_taken_for_growth(name: str, runs: int) -> None:
    source = random.Random(f"{name} {runs}")
    limit = parse_limits("memory:10%")["memory"]
    found = [change(source, NOISES[name], runs, 1, limit) for _ in range(2000)]
    assert sum(one.verdict == "grown" for one in found) < 0.01 * len(found)
    assert sum(one.exceeded for one in found) < 0.003 * len(found)


@pytest.mark.parametrize("name", ["even", "normal", "long tail"])
def test_growth_of_30_percent_is_found_in_noise_of_5_percent(name: str) -> None:
    source = random.Random(name)
    limit = parse_limits("memory:10%")["memory"]
    found = [change(source, NOISES[name], 9, 1.3, limit) for _ in range(500)]
    assert sum(one.exceeded for one in found) > 0.98 * len(found)


@pytest.mark.parametrize("name", NOISES)
@pytest.mark.parametrize("runs", [6, 12])
def test_what_grew_is_hardly_ever_called_the_same(name: str, runs: int) -> None:
    """Twice what is material: the intervals would both have to miss."""
    source = random.Random(f"{name} {runs}")
    found = [change(source, NOISES[name], runs, 1 + 2 * MATERIAL) for _ in range(2000)]
    assert sum(one.verdict == "same" for one in found) < 0.01 * len(found)


def test_too_few_runs_are_unclear_whatever_the_change() -> None:
    for before, after in ((1, 6), (6, 5), (5, 5)):
        one = judged(
            "test", "memory", Spread.of([100.0] * before), Spread.of([1000.0] * after), parse_limits("memory:10%")["memory"]
        )
        assert (one.verdict, one.noise, one.exceeded) == ("unclear", None, False)
        assert judged("test", "memory", Spread.of([100.0] * before), Spread.of([100.0] * after)).verdict == "unclear"


def of(*values: float) -> Spread:
    return Spread.of(values)


@pytest.mark.parametrize(
    "after,limit,verdict,exceeded",
    [
        ([100.0] * 6, None, "same", False),
        ([104.0] * 6, None, "same", False),
        ([106.0] * 6, None, "grown", False),
        ([94.0] * 6, None, "shrunk", False),
        ([104.0] * 6, "memory:3%", "grown", True),
        ([109.0] * 6, "memory:10%", "grown", False),
        ([111.0] * 6, "memory:10%", "grown", True),
        ([111.0] * 6, "memory:12B", "grown", False),
        ([113.0] * 6, "memory:12B", "grown", True),
        ([100.1] * 6, "memory:0%", "grown", True),
        ([95.0, 100.0, 105.0, 130.0, 140.0, 150.0], "memory:10%", "unclear", False),
    ],
)
def test_verdicts(after: list[float], limit: str | None, verdict: str, exceeded: bool) -> None:
    one = judged("test", "memory", of(*[100.0] * 6), of(*after), parse_limits(limit)["memory"] if limit else None)
    assert (one.verdict, one.exceeded) == (verdict, exceeded)
    assert one.change == pytest.approx(median(after) / 100 - 1)


def test_growth_from_nothing_is_growth_beyond_any_share() -> None:
    one = judged("test", "processes_left", of(*[0.0] * 6), of(*[1.0] * 6), parse_limits("processes_left:50%")["processes_left"])
    assert (one.verdict, one.exceeded, one.change, one.noise) == ("grown", True, None, None)
