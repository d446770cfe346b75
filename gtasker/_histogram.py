"""A histogram of seconds in fixed log buckets: bounded memory, percentiles within 3.6 %.

Invariant: `counts` sums to `count`, and a value lies in the first bucket whose bound is not below it.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from itertools import accumulate
from typing import NamedTuple

LOWEST = 1e-7
"""Seconds. Below what the clock resolves between two statements, so nothing is lost in the first bucket."""
HIGHEST = 1e6
"""Seconds; eleven days. What lies above is told as the greatest value seen."""
STEPS_PER_OCTAVE = 10
"""Bounds for each doubling. The middle of a bucket is at most 2 ** (1/20) = 1.036 times off any value in it."""

BOUNDS: tuple[float, ...] = tuple(
    LOWEST * 2 ** (step / STEPS_PER_OCTAVE)
    for step in range(math.ceil(math.log2(HIGHEST / LOWEST) * STEPS_PER_OCTAVE) + 1)
)
"""Upper bounds, inclusive, ascending, seconds. One more bucket holds what is above the last."""

_HALF_STEP = 2 ** (0.5 / STEPS_PER_OCTAVE)


class Buckets(NamedTuple):
    """A histogram as an exporter wants it."""

    bounds: tuple[float, ...]
    """Upper bounds, inclusive, ascending, seconds; the last is infinity."""
    counts: tuple[int, ...]
    """Cumulative: how many values are at or below the bound. The last is the count of all."""
    total: float
    """Sum of all values, seconds."""


class LogHistogram:
    """Counts of values, with their exact count, sum, least and greatest. Never switches."""

    __slots__ = ("count", "counts", "greatest", "least", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.count = 0
        self.total = 0.0
        self.least = 0.0
        self.greatest = 0.0

    def take(self, values: list[float]) -> None:
        """Count all `values` (seconds, in any order) and empty the list, which is sorted in place."""
        if not values:
            return
        # Sorted in C, a bucket is one search for its end: far cheaper than one search a value.
        values.sort()
        self.least = min(self.least, values[0]) if self.count else values[0]
        self.greatest = max(self.greatest, values[-1])
        self.total += sum(values)
        size = len(values)
        self.count += size
        start = 0
        while start < size:
            bucket = bisect_left(BOUNDS, values[start])
            end = bisect_right(values, BOUNDS[bucket], start) if bucket < len(BOUNDS) else size
            self.counts[bucket] += end - start
            start = end
        values.clear()

    def mean(self) -> float:
        """Average, seconds; 0 when empty."""
        return self.total / self.count if self.count else 0.0

    def percentiles(self, *fractions: float) -> list[float]:
        """Value of the nearest rank for each fraction (above 0, at most 1), seconds; 0 when empty.

        Within 3.6 % of the true value; values below 100 ns are told as the least one, those above 10**6 s as the
        greatest.
        """
        if not self.count:
            return [0.0] * len(fractions)
        ranks = list(accumulate(self.counts))
        return [self._middle(bisect_left(ranks, math.ceil(fraction * self.count))) for fraction in fractions]

    def _middle(self, bucket: int) -> float:
        if bucket == 0:
            return self.least
        if bucket == len(BOUNDS):
            return self.greatest
        return min(max(BOUNDS[bucket] / _HALF_STEP, self.least), self.greatest)

    def buckets(self) -> Buckets:
        """Copy for an exporter. Any subset of the bounds that keeps the last is a right histogram, too."""
        return Buckets((*BOUNDS, math.inf), tuple(accumulate(self.counts)), self.total)
