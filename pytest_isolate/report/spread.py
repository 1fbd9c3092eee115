"""How sure a median is: the confidence interval that the values' own order gives, whatever their distribution.

Times and memory peaks aren't normally distributed, so nothing here takes a mean or a variance. Of n independent values, the one of
rank k is above the true median with the probability that fewer than k of n fair coins fall heads; so the values of ranks k
and n + 1 - k enclose the median with a probability that n and k alone decide. T. Hoefler and R. Belli recommend it for benchmarks
(Scientific Benchmarking of Parallel Computing Systems, SC '15, doi:10.1145/2807591.2807644), after J.-Y. Le Boudec
(Performance Evaluation of Computer and Communication Systems, EPFL Press 2010, chapter 2).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Final

__all__ = ["CONFIDENCE", "FEWEST", "Spread"]

CONFIDENCE: Final = 0.95
_ODDS: Final = 40
"""2 / (1 - CONFIDENCE): the median may be beyond either bound. Whole numbers stay exact however many values there are."""

FEWEST: Final = 6
"""Of fewer values not even the least and the greatest enclose the median that surely: of five they do with 93.75 %."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Of the values of one figure.

    Attributes:
        runs: how many there are, at least 1.
        median: theirs.
        low, high: the bounds that enclose the true median with `CONFIDENCE` or more; None of fewer than `FEWEST` values.
    """

    runs: int
    median: float
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Of at least one value."""
        ordered = sorted(values)
        runs = len(ordered)
        middle = (ordered[(runs - 1) // 2] + ordered[runs // 2]) / 2
        if not (rank := _rank(runs)):
            return cls(runs, middle)
        return cls(runs, middle, ordered[rank - 1], ordered[-rank])


@cache
def _rank(number: int) -> int:
    """The greatest k for which the values of ranks k and number + 1 - k enclose the median with `CONFIDENCE`; 0: there is none."""
    below, rank = 0, 0
    for k in range(1, number // 2 + 1):
        below += math.comb(number, k - 1)
        if _ODDS * below > 2**number:
            break
        rank = k
    return rank
